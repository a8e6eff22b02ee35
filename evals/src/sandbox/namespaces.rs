//! Namespaces, and the user that a program runs as.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, sethostname, setresgid, setresuid};

use super::protection::{Missing, Protection};

/// Nobody, inside; and outside, where root starts a program.
const NOBODY: u32 = 65534;

/// All namespaces but the user's.
pub fn enter(missing: &mut Vec<Missing>) {
    for (flag, protection) in [
        (CloneFlags::CLONE_NEWNS, Protection::MountNamespace),
        (CloneFlags::CLONE_NEWPID, Protection::ProcessNamespace),
        (CloneFlags::CLONE_NEWNET, Protection::NetworkNamespace),
        (CloneFlags::CLONE_NEWIPC, Protection::IpcNamespace),
        (CloneFlags::CLONE_NEWUTS, Protection::HostNameNamespace),
    ] {
        let entered = unshare(flag).and_then(|()| match flag {
            CloneFlags::CLONE_NEWUTS => sethostname("sandbox"),
            _ => Ok(()),
        });
        if let Err(error) = entered {
            missing.push(Missing::new(protection, error));
        }
    }
}

/// A user namespace in which there is nobody but [`NOBODY`]. It counts processes by itself, and gives an ordinary user the
/// rights that the other namespaces take. `own` is `/proc/self`, opened while there was one.
pub fn enter_user(own: &OwnedFd, missing: &mut Vec<Missing>) {
    let (user, group) = (geteuid(), getegid());
    let entered = unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(std::io::Error::from)
        .and_then(|()| {
            write(own, "setgroups", "deny")?;
            write(own, "uid_map", &format!("{NOBODY} {user} 1"))?;
            write(own, "gid_map", &format!("{NOBODY} {group} 1"))
        });
    if let Err(error) = entered {
        missing.push(Missing::new(Protection::UserNamespace, error));
    }
}

fn write(own: &OwnedFd, name: &str, text: &str) -> std::io::Result<()> {
    let file = openat(own, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file).write_all(text.as_bytes())
}

/// Root becomes nobody: no limit of processes binds root.
pub fn leave_root(missing: &mut Vec<Missing>) {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let left = setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        // A change of user hides `/proc/self` from the process, which has yet to write its map of users there.
        .and_then(|()| set_dumpable(true));
    if let Err(error) = left {
        missing.push(Missing::new(Protection::UnprivilegedUser, error));
    }
}

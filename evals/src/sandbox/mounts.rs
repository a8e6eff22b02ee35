//! A root directory of its own: what Python needs, read-only; `/tmp`, of a limited size; four harmless devices. No `/proc`.

use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::interpreter::{Interpreter, SYSTEM};

/// Where the new root is put together: a directory that every system has.
const PLACE: &str = "/proc";
pub const WORK: &str = "/tmp";
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// What the dynamic linker and the alternatives of Debian are found by.
const SETTINGS: [&str; 2] = ["/etc/ld.so.cache", "/etc/alternatives"];

// linux/mount.h
const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds attributes to a mount and, if asked, to all below it (Linux 5.12).
fn restrict(path: &Path, attributes: u64, recursive: bool) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = MountAttributes {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends with a zero and the structure is the kernel's `mount_attr`; both live through the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            RawFd::from(libc::AT_FDCWD),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn tmpfs(at: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        flags,
        Some(options),
    )?)
}

/// `path` below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows what lies at `path` at the same place below `root`.
fn show(path: &Path, root: &Path, attributes: u64) -> io::Result<()> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    let at = below(root, path);
    match metadata.is_dir() {
        true => fs::create_dir_all(&at)?,
        false => {
            fs::create_dir_all(at.parent().unwrap_or(root))?;
            File::create(&at)?;
        }
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(path), &at, None::<&str>, flags, None::<&str>)?;
    restrict(&at, attributes, true)
}

/// Leaves the process in the folder that it may write in, below a root that holds nothing else of the system.
///
/// # Errors
/// What the system does not allow, with the path.
pub fn enter_own_root(python: &Interpreter, disk_bytes: u64) -> io::Result<()> {
    let root = Path::new(PLACE);
    let told = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    tmpfs(root, "mode=755,size=1m,nr_inodes=4096").map_err(|error| told(root, error))?;
    for path in SYSTEM.map(Path::new) {
        let shown = match fs::read_link(path) {
            Ok(target) => symlink(target, below(root, path)),
            Err(_) => show(path, root, RDONLY | NOSUID | NODEV),
        };
        shown.map_err(|error| told(path, error))?;
    }
    let needed = python.needs.iter().map(PathBuf::as_path);
    for path in needed.chain(SETTINGS.map(Path::new)) {
        show(path, root, RDONLY | NOSUID | NODEV).map_err(|error| told(path, error))?;
    }
    for path in DEVICES.map(Path::new) {
        show(path, root, NOSUID | NOEXEC).map_err(|error| told(path, error))?;
    }
    let work = below(root, Path::new(WORK));
    fs::create_dir_all(&work)?;
    let options = format!("mode=1777,size={disk_bytes},nr_inodes=4096");
    tmpfs(&work, &options).map_err(|error| told(&work, error))?;
    restrict(root, RDONLY, false)?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir(WORK)?)
}

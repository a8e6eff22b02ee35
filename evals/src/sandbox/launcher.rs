//! The launcher: a process of its own, single-threaded, that builds the sandbox around itself, starts the program in it,
//! waits no longer than the program may take, and reports. Nothing of the program is left when it does.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability, has_cap};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, chdir, fork, geteuid, pipe2, setsid};

use super::descriptors::close_from;
use super::message::{Ended, Ending, Report, Request, receive, send};
use super::mounts::{WORK, enter_own_root};
use super::namespaces::{enter, enter_user, leave_root};
use super::program::{Ends, Word, first_process};
use super::protection::{Missing, Protection};

/// Bytes of what the driver says that are kept.
const SAID: usize = 256;

/// Serves one request, which comes through standard input; standard output and error are the program's.
///
/// # Errors
/// A caller that is gone or says something else.
pub fn serve() -> io::Result<()> {
    close_from(3)?;
    let mut caller = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let request: Request = receive(&mut caller)?;
    let report = launch(&caller, &request).unwrap_or_else(|why| Report::Failed(why.to_string()));
    send(&mut caller, &report)
}

fn launch(caller: &UnixStream, request: &Request) -> io::Result<Report> {
    let mut missing = Vec::new();
    build(request, &mut missing)?;
    if refuses(request, &missing) {
        return Ok(Report::Refused(missing));
    }
    let (words, word) = pipe2(OFlag::O_CLOEXEC)?;
    let (said, say) = pipe2(OFlag::O_CLOEXEC)?;
    let (life, alive) = pipe2(OFlag::O_CLOEXEC)?;
    let payload = payload(request)?;
    let start = Instant::now();
    // SAFETY: this process has one thread, so its copy may run any code.
    let first = match unsafe { fork() }? {
        ForkResult::Child => {
            drop((words, said, alive));
            let ends = Ends { word, say, payload };
            first_process(request, &life, ends);
        }
        ForkResult::Parent { child } => child,
    };
    drop((word, say, life));
    let in_time = wait(caller, &words, request.limits.timeout)?;
    if !in_time {
        kill(first, Signal::SIGKILL)?;
    }
    // The first process of a process namespace takes all others with it.
    waitpid(first, None)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut text = String::new();
    File::from(words).read_to_string(&mut text)?;
    let mut ending = None;
    for line in text.lines() {
        match serde_json::from_str(line)? {
            Word::Missing(one) => missing.push(one),
            Word::Failed(why) => return Ok(Report::Failed(why)),
            Word::Ended(ended) => ending = Some(ended),
        }
    }
    if refuses(request, &missing) {
        return Ok(Report::Refused(missing));
    }
    Ok(Report::Ended(Ended {
        ending: match in_time {
            true => ending.unwrap_or(Ending::Killed(Signal::SIGKILL as i32)),
            false => Ending::TimedOut,
        },
        said: read_some(said)?,
        seconds,
        missing,
    }))
}

fn refuses(request: &Request, missing: &[Missing]) -> bool {
    !request.unsafe_execution && missing.iter().any(|one| one.protection.is_required())
}

/// Cgroups, namespaces, the root directory and the user, in the order in which each still has the rights that it needs.
fn build(request: &Request, missing: &mut Vec<Missing>) -> io::Result<()> {
    for directory in &request.cgroups {
        if let Err(error) = fs::write(directory.join("cgroup.procs"), "0") {
            missing.push(Missing::new(Protection::MemoryCgroup, error));
        }
    }
    // Away from the caller's terminal.
    let _ = setsid();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let own = open("/proc/self", flags, Mode::empty())?;
    let may_mount = has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false);
    if !may_mount {
        become_nobody(&own, missing);
    }
    enter(missing);
    let lacks_mounts = missing
        .iter()
        .any(|one| one.protection == Protection::MountNamespace);
    let entered = match lacks_mounts {
        true => Err(io::Error::other("it needs a mount namespace")),
        false => enter_own_root(&request.python, request.limits.disk_bytes()),
    };
    if let Err(error) = entered {
        missing.push(Missing::new(Protection::OwnRoot, error));
        chdir(WORK)?;
    }
    if may_mount {
        become_nobody(&own, missing);
    }
    Ok(())
}

fn become_nobody(own: &OwnedFd, missing: &mut Vec<Missing>) {
    if geteuid().is_root() {
        leave_root(missing);
    }
    enter_user(own, missing);
}

/// What the driver reads: a file without a name.
fn payload(request: &Request) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("program", MFdFlags::MFD_CLOEXEC)?);
    write!(file, "{}\n{}\n", request.marker, request.code.len())?;
    file.write_all(request.code.as_bytes())?;
    file.write_all(request.checks.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// Whether the program ended before its time was over and before the caller went away.
fn wait(caller: &UnixStream, words: &OwnedFd, timeout: f64) -> io::Result<bool> {
    let end = Instant::now() + Duration::from_secs_f64(timeout);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Rounded up: a poll of 0 ms would spin through the last one.
        let left = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut events = [
            PollFd::new(words.as_fd(), PollFlags::POLLIN),
            PollFd::new(caller.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut events, left) {
            Err(nix::Error::EINTR) => continue,
            polled => polled?,
        };
        let [has_word, caller_gone] = events.map(|event| event.any().unwrap_or(true));
        if has_word {
            return Ok(true);
        }
        if caller_gone || Instant::now() >= end {
            return Ok(false);
        }
    }
}

/// The beginning of what is left in a pipe that nobody writes any more.
fn read_some(pipe: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(pipe).take(SAID as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

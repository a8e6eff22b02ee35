//! Inside: the first process, which waits, and the program's own.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use caps::CapSet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_dumpable, set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stdin, execve, fork, setsid};
use serde::{Deserialize, Serialize};

use super::descriptors::{aside, close_from_at_start, place};
use super::message::{Ending, Request};
use super::protection::{Missing, Protection};
use super::{landlock, system_calls};

const DRIVER: &str = include_str!("driver.py");
/// All that a program finds in its environment. With a fixed seed of hashes the same program has the same fate.
const ENVIRONMENT: [&str; 8] = [
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/tmp",
    "LANG=C.UTF-8",
    "PYTHONHASHSEED=0",
    "PYTHONDONTWRITEBYTECODE=1",
    "PYTHONUTF8=1",
    "OMP_NUM_THREADS=1",
    "OPENBLAS_NUM_THREADS=1",
];

/// What the launcher hears from inside, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    Missing(Missing),
    Failed(String),
    Ended(Ending),
}

/// Files of the first process.
pub struct Ends {
    /// Words to the launcher.
    pub word: OwnedFd,
    /// The driver's marker.
    pub say: OwnedFd,
    pub payload: OwnedFd,
}

fn tell(to: &OwnedFd, word: &Word) -> io::Result<()> {
    let line = serde_json::to_string(word)? + "\n";
    File::from(to.try_clone()?).write_all(line.as_bytes())
}

/// Number 1 of its namespace: starts the program, waits for it, and takes with it what the program leaves behind.
pub fn first_process(request: &Request, life: &OwnedFd, ends: Ends) -> ! {
    let ended = live(request, life, &ends);
    let told = match ended {
        Ok(ending) => tell(&ends.word, &Word::Ended(ending)),
        Err(why) => tell(&ends.word, &Word::Failed(why.to_string())),
    };
    std::process::exit(i32::from(told.is_err()));
}

fn live(request: &Request, life: &OwnedFd, ends: &Ends) -> io::Result<Ending> {
    for set in [CapSet::Bounding, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    set_dumpable(false)?;
    set_pdeathsig(Signal::SIGKILL)?;
    let mut launcher = [PollFd::new(life.as_fd(), PollFlags::POLLIN)];
    if poll(&mut launcher, PollTimeout::ZERO)? > 0 {
        return Err(io::Error::other("the launcher is gone"));
    }
    // SAFETY: this process has one thread, so its copy may run any code.
    let program = match unsafe { fork() }? {
        ForkResult::Child => {
            let Err(why) = become_program(request, ends);
            let _ = tell(&ends.word, &Word::Failed(why.to_string()));
            std::process::exit(1);
        }
        ForkResult::Parent { child } => child,
    };
    loop {
        let ending = match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(process, code)) if process == program => Ending::Exited(code),
            Ok(WaitStatus::Signaled(process, signal, _)) if process == program => {
                Ending::Killed(signal as i32)
            }
            Ok(_) | Err(nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        // Where there is no process namespace, what stayed in the program's session goes at least.
        let _ = kill(Pid::from_raw(-program.as_raw()), Signal::SIGKILL);
        return Ok(ending);
    }
}

/// Narrows the process down and becomes Python.
fn become_program(request: &Request, ends: &Ends) -> io::Result<Infallible> {
    setsid()?;
    set_pdeathsig(Signal::SIGKILL)?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // SAFETY: no handler is installed, the default is restored.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    let [word, say, payload] = [&ends.word, &ends.say, &ends.payload].map(aside);
    let (word, say, payload) = (word?, say?, payload?);
    dup2_stdin(File::open("/dev/null")?)?;
    place(&payload, 3)?;
    place(&say, 4)?;
    close_from_at_start(5)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
    let executable = text(request.python.executable.as_os_str().as_encoded_bytes())?;
    let arguments = [
        executable.clone(),
        text(b"-s")?,
        text(b"-c")?,
        text(DRIVER.as_bytes())?,
    ];
    let environment = ENVIRONMENT.map(|variable| text(variable.as_bytes()));
    let environment = environment.into_iter().collect::<io::Result<Vec<_>>>()?;
    let filter = system_calls::filter().map_err(io::Error::other)?;

    let landlock = match landlock::restrict() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel does not have it".to_string()),
        Err(error) => Err(error.to_string()),
    };
    let steps: [(Protection, Result<(), String>); 2] = [
        (Protection::Landlock, landlock),
        (
            Protection::NoNewPrivileges,
            set_no_new_privs().map_err(|error| error.to_string()),
        ),
    ];
    for (protection, had) in steps {
        have(request, &word, protection, had)?;
    }
    let limited = (request.limits.apply()).and_then(|()| request.limits.apply_to_addresses());
    let limited = limited.map_err(|error| error.to_string());
    have(request, &word, Protection::Limits, limited)?;
    let filtered = seccompiler::apply_filter(&filter).map_err(|error| error.to_string());
    have(request, &word, Protection::SystemCallFilter, filtered)?;
    Ok(execve(&executable, &arguments, &environment)?)
}

/// Tells of a protection that could not be had, and ends where it is needed.
fn have(
    request: &Request,
    word: &OwnedFd,
    protection: Protection,
    had: Result<(), String>,
) -> io::Result<()> {
    let Err(reason) = had else { return Ok(()) };
    tell(word, &Word::Missing(Missing::new(protection, reason)))?;
    if protection.is_required() && !request.unsafe_execution {
        std::process::exit(1);
    }
    Ok(())
}

//! Runs Python programs that nobody has read, and tells what became of them.
//!
//! The work is done by processes: this one asks a *launcher*, a process of a program that calls [`serve`], which builds
//! namespaces, a root directory and limits around itself, becomes nobody, and forks the *first process* of the new process
//! namespace; that one forks the *program*, which narrows itself down by Landlock and a filter of system calls and becomes
//! Python. When the first process ends, the kernel ends all that the program has left behind.
//!
//! Python runs a driver that knows a random marker and writes it into a pipe when code and checks are through. Only with
//! the marker a program has passed. What has passed runs once more with a check at its end that fails: what passes that, too,
//! has written the marker itself, or made checks that cannot fail.

mod cgroup;
mod config;
mod descriptors;
mod interpreter;
mod landlock;
mod launcher;
mod limits;
mod message;
mod mounts;
mod namespaces;
mod outputs;
mod program;
mod protection;
mod system_calls;
mod verdict;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use cgroup::{Cgroup, Place};
use interpreter::Interpreter;
use message::{Ended, Report, Request, receive, send};
use outputs::read_both;

pub use config::SandboxConfig;
pub use launcher::serve;
pub use protection::{Missing, Protection, listed};
pub use verdict::Verdict;

/// The argument with which a program is asked to be the launcher.
pub const LAUNCHER: &str = "sandbox-child";
/// Seconds that building the sandbox and taking it down may take beside the program.
const GRACE: Duration = Duration::from_secs(20);
/// What fails in every program that is honest.
const CONTROL: &str = "\nraise AssertionError('the checks are over')\n";

/// What is run: code, and checks that run after it and see its names but those that hide a builtin, which are in the
/// module `__main__`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program<'a> {
    pub code: &'a str,
    pub checks: &'a str,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The beginning of what the program printed.
    pub stdout: String,
    pub stderr: String,
    /// Whether there was more of it.
    pub output_cut: bool,
    /// By the clock, from the start of the interpreter to the end of the last process.
    pub seconds: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "cannot use the Python `{python}`: {why}\nhint: `python` names the interpreter that runs generated programs"
    )]
    Python { python: String, why: String },
    #[error(
        "this system does not allow all that protects it from generated programs: {} missing\nhint: allow user \
         namespaces, or run where they are allowed; `unsafe_execution = true` runs the programs all the same",
        listed(.0)
    )]
    Missing(Vec<Missing>),
    #[error("the sandbox failed: {0}")]
    Failed(String),
    #[error("cannot start the sandbox: {0}")]
    Start(#[from] io::Error),
}

/// Runs programs, several at a time if called from several threads.
#[derive(Debug)]
pub struct Sandbox {
    launcher: PathBuf,
    config: SandboxConfig,
    python: Interpreter,
    cgroups: Option<Place>,
    /// Protections that the system does not allow.
    pub missing: Vec<Missing>,
}

impl Sandbox {
    /// `launcher` is a program that calls [`serve`] when it is started with [`LAUNCHER`]. Runs a first, empty program.
    ///
    /// # Errors
    /// No interpreter, or a system that does not allow the sandbox.
    pub fn new(launcher: &Path, config: &SandboxConfig) -> Result<Self, SandboxError> {
        let mut sandbox = Self {
            launcher: launcher.to_path_buf(),
            config: config.clone(),
            python: Interpreter::find(&config.python)?,
            cgroups: Place::find(),
            missing: Vec::new(),
        };
        let without = match &sandbox.cgroups {
            Some(place) => place.make(&config.limits()).err().unwrap_or_default(),
            None => [Protection::MemoryCgroup, Protection::ProcessCgroup]
                .map(|protection| Missing::new(protection, "there are none"))
                .to_vec(),
        };
        if !without.is_empty() {
            sandbox.cgroups = None;
        }
        let (outcome, missing) = sandbox.run_once(Program {
            code: "",
            checks: "",
        })?;
        if outcome.verdict != Verdict::Passed {
            let why = format!("{}: {}", outcome.verdict.described(), outcome.stderr.trim());
            let python = config.python.clone();
            return Err(SandboxError::Python { python, why });
        }
        sandbox.missing = without;
        sandbox.missing.extend(missing);
        Ok(sandbox)
    }

    /// Runs one program to its end or to its limits.
    ///
    /// # Errors
    /// Those of the sandbox; whatever the program does is a verdict.
    pub fn run(&self, program: Program) -> Result<Outcome, SandboxError> {
        let (mut outcome, _) = self.run_once(program)?;
        if outcome.verdict == Verdict::Passed {
            let checks = format!("{}{CONTROL}", program.checks);
            let code = program.code;
            let control = Program {
                code,
                checks: &checks,
            };
            let (control, _) = self.run_once(control)?;
            if matches!(control.verdict, Verdict::Passed | Verdict::Forged) {
                outcome.verdict = Verdict::Forged;
            }
        }
        Ok(outcome)
    }

    fn run_once(&self, program: Program) -> Result<(Outcome, Vec<Missing>), SandboxError> {
        let limits = self.config.limits();
        let cgroup = match self.cgroups.as_ref().map(|place| place.make(&limits)) {
            Some(Ok(cgroup)) => cgroup,
            Some(Err(missing)) => return Err(SandboxError::Failed(listed(&missing))),
            None => Cgroup::default(),
        };
        let request = Request {
            python: self.python.clone(),
            limits,
            code: program.code.to_string(),
            checks: program.checks.to_string(),
            marker: marker()?,
            cgroups: cgroup.directories.clone(),
            unsafe_execution: self.config.unsafe_execution,
        };
        let (mut to_launcher, its_end) = UnixStream::pair()?;
        let launcher = Command::new(&self.launcher)
            .arg(LAUNCHER)
            .env_clear()
            // Ctrl-C in a terminal is for the caller, who ends this one himself.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut launcher = Launcher(launcher);
        let end = Instant::now() + Duration::from_secs_f64(limits.timeout) + GRACE;
        let sent = send(&mut to_launcher, &request);
        let output = read_both(&mut launcher.0, end)?;
        to_launcher.set_read_timeout(Some(Duration::from_secs(1)))?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = sent.and_then(|()| receive(&mut to_launcher));
        let report = report.map_err(|error| {
            SandboxError::Failed(format!("no report ({error}) {}", words.trim()))
        })?;
        drop(launcher);
        let ran_out_of_memory = cgroup.ran_out_of_memory();
        match report {
            Report::Refused(missing) => Err(SandboxError::Missing(missing)),
            Report::Failed(why) => Err(SandboxError::Failed(why)),
            Report::Ended(ended) => {
                let Ended {
                    ending,
                    said,
                    seconds,
                    missing,
                } = ended;
                let outcome = Outcome {
                    verdict: Verdict::of(ending, &said, &request.marker, ran_out_of_memory),
                    stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                    stderr: words,
                    output_cut: output.is_cut,
                    seconds,
                };
                Ok((outcome, missing))
            }
        }
    }
}

/// A launcher that does not outlive its use; what it has started goes with it.
struct Launcher(Child);

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sixteen random bytes.
fn marker() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

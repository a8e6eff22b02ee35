//! What became of a program.

use nix::libc;
use serde::{Deserialize, Serialize};

use super::message::Ending;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It came to its end, checks included.
    Passed,
    /// An exception that it did not catch.
    Failed {
        exception: String,
    },
    /// It ended itself before its end.
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    TimedOut,
    OutOfMemory,
    /// It claimed to have come to its end, and did not.
    Forged,
}

impl Verdict {
    /// A few words, the same for programs of the same fate.
    pub fn described(&self) -> String {
        match self {
            Self::Passed => "passed".into(),
            Self::Failed { exception } => exception.clone(),
            Self::Exited { code } => format!("exited early with code {code}"),
            Self::Killed { signal } => format!("killed by signal {signal}"),
            Self::TimedOut => "timed out".into(),
            Self::OutOfMemory => "out of memory".into(),
            Self::Forged => "forged its own success".into(),
        }
    }

    /// `said` is what the driver, or somebody in its place, wrote to the result's pipe.
    pub(super) fn of(ending: Ending, said: &[u8], marker: &str, ran_out_of_memory: bool) -> Self {
        let exception = said.strip_prefix(b"!").map(exception_name);
        match (ending, exception) {
            (Ending::TimedOut | Ending::Killed(libc::SIGXCPU), _) => Self::TimedOut,
            (Ending::Exited(0), _) if said == marker.as_bytes() => Self::Passed,
            (_, None) if !said.is_empty() => Self::Forged,
            (Ending::Exited(_), Some(exception)) => match exception.as_str() {
                "MemoryError" => Self::OutOfMemory,
                _ => Self::Failed { exception },
            },
            _ if ran_out_of_memory => Self::OutOfMemory,
            (Ending::Exited(code), None) => Self::Exited { code },
            (Ending::Killed(signal), _) => Self::Killed { signal },
        }
    }
}

/// The program may have written this: anything but a short name is not repeated.
fn exception_name(said: &[u8]) -> String {
    let name = String::from_utf8_lossy(said);
    let is_name = |name: &str| name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match !name.is_empty() && name.len() <= 64 && is_name(&name) {
        true => name.into_owned(),
        false => "Exception".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_and_a_clean_end_are_a_success() {
        let of = |ending, said: &str| Verdict::of(ending, said.as_bytes(), "secret", false);
        assert_eq!(of(Ending::Exited(0), "secret"), Verdict::Passed);
        assert_eq!(of(Ending::Exited(1), "secret"), Verdict::Forged);
        assert_eq!(of(Ending::Exited(0), "secretsecret"), Verdict::Forged);
        assert_eq!(of(Ending::Exited(0), "passed"), Verdict::Forged);
        assert_eq!(of(Ending::Exited(0), ""), Verdict::Exited { code: 0 });
        assert_eq!(of(Ending::TimedOut, "secret"), Verdict::TimedOut);
        assert_eq!(of(Ending::Killed(24), ""), Verdict::TimedOut);
        assert_eq!(of(Ending::Killed(9), ""), Verdict::Killed { signal: 9 });
        assert_eq!(of(Ending::Exited(1), "!MemoryError"), Verdict::OutOfMemory);
        let failed = |name: &str| Verdict::Failed {
            exception: name.into(),
        };
        assert_eq!(of(Ending::Exited(1), "!KeyError"), failed("KeyError"));
        assert_eq!(of(Ending::Exited(1), "!a\nb"), failed("Exception"));
        let killed = Verdict::of(Ending::Killed(9), b"", "secret", true);
        assert_eq!(killed, Verdict::OutOfMemory);
    }
}

//! The limits that the kernel keeps for one process.

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

/// Processes and threads of a program at a time, itself among them.
const PROCESSES: u64 = 16;
/// What belongs to the sandbox and not to the program: the launcher, the first process, and the program's own start.
const OWN_PROCESSES: u64 = 3;
const OPEN_FILES: u64 = 64;
const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds by the clock, the start of Python included.
    pub timeout: f64,
    /// Addresses of each process, and memory of all of them where a cgroup is to be had; MiB.
    pub memory: u64,
    /// The folder that the program may write in, and each of its files; MiB.
    pub disk: u64,
}

impl Limits {
    /// Bytes of the folder that the program may write in.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk * MIB
    }

    /// Bytes of a cgroup: the program's and some for the launcher.
    pub(super) fn cgroup_bytes(&self) -> u64 {
        (self.memory + 16) * MIB
    }

    pub(super) fn cgroup_processes(&self) -> u64 {
        PROCESSES + OWN_PROCESSES
    }

    /// All limits of a process but that of its addresses, which is set last: what sets it needs memory, too.
    pub(super) fn apply(&self) -> nix::Result<()> {
        let seconds = self.timeout.ceil() as u64 + 1;
        setrlimit(Resource::RLIMIT_CPU, seconds, seconds + 1)?;
        for (resource, most) in [
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_FSIZE, self.disk_bytes()),
            (Resource::RLIMIT_NOFILE, OPEN_FILES),
            (Resource::RLIMIT_NPROC, PROCESSES + OWN_PROCESSES),
            (Resource::RLIMIT_STACK, 8 * MIB),
            (Resource::RLIMIT_MEMLOCK, 0),
            (Resource::RLIMIT_MSGQUEUE, 0),
        ] {
            setrlimit(resource, most, most)?;
        }
        Ok(())
    }

    pub(super) fn apply_to_addresses(&self) -> nix::Result<()> {
        setrlimit(Resource::RLIMIT_AS, self.memory * MIB, self.memory * MIB)
    }
}

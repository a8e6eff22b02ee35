//! Cgroups of a program's own, for all of its processes together: where the system lets us make any.
//!
//! Version 1 has a tree for each kind of limit, of which root may extend ours. In version 2 processes live in leaves only,
//! so ours is made beside the one that we are in, where that has been handed to us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::limits::Limits;
use super::protection::{Missing, Protection};

/// What the names of our cgroups begin with.
const NAME: &str = "distill-";
const LEFT: Duration = Duration::from_secs(600);

/// Where cgroups can be made.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// Version 1: the directories of the two kinds.
    Split { memory: PathBuf, processes: PathBuf },
    /// Version 2.
    Unified(PathBuf),
}

/// The cgroups of one program; they go with this.
#[derive(Debug, Default)]
pub struct Cgroup {
    pub directories: Vec<PathBuf>,
    memory: Option<PathBuf>,
}

impl Place {
    /// Beside or below the cgroups of this process; what killed runs have left there goes.
    pub fn find() -> Option<Self> {
        let found = Self::of_this_process()?;
        let places = match &found {
            Self::Split { memory, processes } => vec![memory, processes],
            Self::Unified(place) => vec![place],
        };
        places.into_iter().for_each(|at| remove_left(at));
        Some(found)
    }

    fn of_this_process() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let split = (
            directory(&own, &mounts, "memory"),
            directory(&own, &mounts, "pids"),
        );
        match split {
            (Some(memory), Some(processes)) => Some(Self::Split { memory, processes }),
            _ => {
                let own = directory(&own, &mounts, "")?;
                Some(Self::Unified(own.parent()?.to_path_buf()))
            }
        }
    }

    /// Makes the cgroups of a program.
    ///
    /// # Errors
    /// What cannot be had; none is left then.
    pub fn make(&self, limits: &Limits) -> Result<Cgroup, Vec<Missing>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME}{}-{number}", std::process::id());
        let mut cgroup = Cgroup::default();
        let (memory, processes) = match self {
            Self::Split { memory, processes } => (memory.join(&name), processes.join(&name)),
            Self::Unified(place) => (place.join(&name), place.join(&name)),
        };
        let bytes = limits.cgroup_bytes();
        let made = cgroup.limit(&memory, |directory| match self {
            Self::Split { .. } => {
                fs::write(directory.join("memory.limit_in_bytes"), bytes.to_string())?;
                // Only where the kernel counts swap.
                let _ = fs::write(
                    directory.join("memory.memsw.limit_in_bytes"),
                    bytes.to_string(),
                );
                Ok(())
            }
            Self::Unified(_) => {
                fs::write(directory.join("memory.max"), bytes.to_string())?;
                let _ = fs::write(directory.join("memory.swap.max"), "0");
                Ok(())
            }
        });
        let mut missing = Vec::new();
        match made {
            Ok(()) => cgroup.memory = Some(memory),
            Err(error) => missing.push(Missing::new(Protection::MemoryCgroup, error)),
        }
        let most = limits.cgroup_processes().to_string();
        let made = cgroup.limit(&processes, |directory| {
            fs::write(directory.join("pids.max"), most)
        });
        if let Err(error) = made {
            missing.push(Missing::new(Protection::ProcessCgroup, error));
        }
        match missing.is_empty() {
            true => Ok(cgroup),
            false => Err(missing),
        }
    }
}

impl Cgroup {
    fn limit(
        &mut self,
        directory: &Path,
        set: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.directories.iter().any(|made| made == directory) {
            fs::create_dir(directory)?;
            self.directories.push(directory.to_path_buf());
        }
        set(directory)
    }

    /// Whether the kernel has ended a process for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let Some(memory) = &self.memory else {
            return false;
        };
        let texts = ["memory.oom_control", "memory.events"]
            .map(|name| fs::read_to_string(memory.join(name)).unwrap_or_default());
        let mut counts = texts.iter().flat_map(|text| text.lines());
        counts.any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n != "0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            // The kernel may still be at the last process.
            let gone = (0..20).any(|_| {
                let removed = fs::remove_dir(directory).is_ok();
                if !removed {
                    std::thread::sleep(Duration::from_millis(5));
                }
                removed
            });
            if !gone {
                tracing::debug!("cannot remove {}", directory.display());
            }
        }
    }
}

/// Removes empty cgroups of ours that are older than any between its making and its first process.
fn remove_left(at: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let made = entry.metadata().and_then(|metadata| metadata.modified());
        made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > LEFT))
    };
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(NAME) && is_old(&entry) {
            // Those that hold a process stay.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Where the cgroup of this process lies, of one kind of version 1 or, with the empty name, of version 2.
fn directory(own: &str, mounts: &str, kind: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (kinds, path) = rest.split_once(':')?;
        kinds.split(',').any(|one| one == kind).then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, described) = line.split_once(" - ")?;
        let mut described = described.split(' ');
        let is_it = match (described.next()?, kind) {
            ("cgroup2", "") => true,
            ("cgroup", kind) => described.next_back()?.split(',').any(|one| one == kind),
            _ => false,
        };
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let path = Path::new(path).strip_prefix(root).ok()?;
        is_it.then(|| Path::new(at).join(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_both_versions() {
        let own = "5:memory:/a/b\n4:cpu,cpuacct:/c\n8:pids:/\n0::/user.slice/x.scope\n";
        let mounts = "24 1 0:21 / /proc rw - proc proc rw\n\
                      30 29 0:26 /a /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 29 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = |kind| directory(own, mounts, kind).unwrap();
        assert_eq!(found("memory"), Path::new("/sys/fs/cgroup/memory/b"));
        assert_eq!(found("pids"), Path::new("/sys/fs/cgroup/pids"));
        let unified = Path::new("/sys/fs/cgroup/unified/user.slice/x.scope");
        assert_eq!(found(""), unified);
        assert_eq!(directory(own, mounts, "blkio"), None);
        assert_eq!(directory("", mounts, "memory"), None);
    }
}

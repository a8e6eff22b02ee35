//! Machines: this one, and some that are not here.

use std::fs;
use std::path::{Path, PathBuf};

use super::activations::{Numbers, ON_CPU, ON_CUDA, ON_VULKAN};

/// A device by its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    pub name: &'static str,
    /// MiB, as the driver tells.
    pub mebibytes: u64,
    /// Dense bf16 products with sums in f32, FLOP/s.
    pub flops: f64,
    /// Of its memory, bytes/s.
    pub bytes: f64,
    pub source: &'static str,
}

/// Memory is what `nvidia-smi` shows; rates are of the data sheets, without sparsity.
pub const DEVICES: [Device; 6] = [
    Device {
        name: "h200",
        mebibytes: 143_771,
        flops: 989.5e12,
        bytes: 4.8e12,
        source: "NVIDIA H200 Tensor Core GPU datasheet, SXM",
    },
    Device {
        name: "h100",
        mebibytes: 81_559,
        flops: 989.5e12,
        bytes: 3.35e12,
        source: "NVIDIA H100 Tensor Core GPU datasheet, SXM",
    },
    Device {
        name: "a100",
        mebibytes: 40_960,
        flops: 312e12,
        bytes: 1.555e12,
        source: "NVIDIA A100 Tensor Core GPU datasheet, 40 GB",
    },
    Device {
        name: "a100-80gb",
        mebibytes: 81_920,
        flops: 312e12,
        bytes: 2.039e12,
        source: "NVIDIA A100 80GB datasheet, SXM",
    },
    Device {
        name: "l40s",
        mebibytes: 46_068,
        flops: 362.05e12,
        bytes: 864e9,
        source: "NVIDIA L40S datasheet",
    },
    Device {
        name: "rtx4090",
        mebibytes: 24_564,
        flops: 165.2e12,
        bytes: 1.008e12,
        source: "NVIDIA Ada GPU architecture whitepaper",
    },
];

pub fn named(name: &str) -> Option<Device> {
    DEVICES.into_iter().find(|device| device.name == name)
}

impl Device {
    pub fn memory(&self) -> u64 {
        self.mebibytes << 20
    }

    /// FLOP/s and bytes/s.
    pub fn rates(&self) -> (f64, f64) {
        (self.flops, self.bytes)
    }
}

/// Memory of a GPU's context and of the kernels, about; not measured here.
const GPU_CONTEXT: usize = 600 << 20;

/// What a process holds of a GPU before any model.
pub fn process_on_gpu(_vocabulary: usize, _gguf: bool) -> usize {
    GPU_CONTEXT
}

/// Resident bytes of a process that has read a recipe, started its threads and opened a tokenizer.
///
/// Measured on x86-64 as the rest of a training stage whose model takes nearly nothing: 46 MiB with 49 152 tokens of a GGUF
/// file, 88 MiB with the `tokenizer.json` that stages leave, whose text is read as a whole.
pub fn process_on_cpu(vocabulary: usize, gguf: bool) -> usize {
    let tokenizer = match gguf {
        true => GGUF_TOKENIZER_BYTES,
        false => JSON_TOKENIZER_BYTES,
    };
    PROGRAM_BYTES + vocabulary * tokenizer
}

const PROGRAM_BYTES: usize = 24 << 20;
/// A token.
const GGUF_TOKENIZER_BYTES: usize = 470;
const JSON_TOKENIZER_BYTES: usize = 1365;

/// What computes, as far as a plan tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Cpu,
    Cuda,
    Vulkan,
}

impl Backend {
    pub fn numbers(self) -> Numbers {
        match self {
            Self::Cpu => ON_CPU,
            Self::Cuda => ON_CUDA,
            Self::Vulkan => ON_VULKAN,
        }
    }
}

/// Memory that this process can still get: of the machine, and of its control group if that allows less.
pub fn free_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok();
    let line = info.as_deref().and_then(|info| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix("MemAvailable:"))
    });
    let kibibytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let of_machine = kibibytes.map(|kibibytes| kibibytes * 1024);
    match (of_machine, free_in_group()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What the control groups still allow, their caches counted as free: the least of the own one and of those around it
/// (cgroup v2 and v1).
fn free_in_group() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let free = groups(&text).into_iter().filter_map(|group| group.free());
    free.min()
}

/// A directory of a control group, and what its files are called.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    path: PathBuf,
    is_v2: bool,
}

/// The groups of `/proc/self/cgroup` that may limit memory, from the own one to the root.
fn groups(text: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next(), fields.next(), fields.next());
        let (root, is_v2) = match (number, controllers) {
            (Some("0"), Some("")) => ("/sys/fs/cgroup", true),
            (_, Some(names)) if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", false)
            }
            _ => continue,
        };
        let within = Path::new(path.unwrap_or("/").trim_start_matches('/'));
        let groups = within.ancestors().map(|within| Group {
            path: Path::new(root).join(within),
            is_v2,
        });
        found.extend(groups);
    }
    found
}

impl Group {
    /// Limit less use, where there is a limit; what caches hold can be had back.
    fn free(&self) -> Option<u64> {
        let (limit, usage, total) = match self.is_v2 {
            true => ("memory.max", "memory.current", ""),
            false => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        };
        let number = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(self.path.join(name)).ok()?;
            text.trim().parse().ok()
        };
        // Without a limit it is `max`, or about 2⁶³.
        let limit = number(limit).filter(|limit| *limit < 1 << 60)?;
        let used = number(usage)?;
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            let name = name.strip_prefix(total)?;
            let is_file = matches!(name, "inactive_file" | "active_file");
            is_file.then(|| value.trim().parse::<u64>().ok())?
        });
        let used = used.saturating_sub(cached.sum());
        Some(limit.saturating_sub(used))
    }
}

/// Bytes that are free where `path` will be.
pub fn free_disk(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let there = path
        .ancestors()
        .find(|path| path.exists() && !path.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new("."));
    let name = std::ffi::CString::new(there.as_os_str().as_bytes()).ok()?;
    // SAFETY: a plain structure of numbers that the call fills.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends with a zero and lives as long as the call.
    let failed = unsafe { libc::statvfs(name.as_ptr(), &mut found) } != 0;
    (!failed).then(|| found.f_bavail * found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_limit_memory_are_the_own_one_and_those_around_it() {
        let paths = |text: &str| -> Vec<String> {
            let groups = groups(text).into_iter();
            groups
                .map(|group| group.path.display().to_string())
                .collect()
        };
        assert_eq!(
            paths("0::/user/job\n"),
            [
                "/sys/fs/cgroup/user/job",
                "/sys/fs/cgroup/user",
                "/sys/fs/cgroup/"
            ]
        );
        assert_eq!(
            paths("5:devices:/a\n4:cpu,memory:/b\n"),
            ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/memory/"]
        );
    }

    #[test]
    fn a_group_has_what_its_limit_leaves_and_its_caches_hold() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let group = Group {
            path: directory.path().to_owned(),
            is_v2: true,
        };
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(group.free(), None);
        write("memory.max", "1000\n");
        assert_eq!(group.free(), Some(300));
        write(
            "memory.stat",
            "anon 500\ninactive_file 150\nactive_file 50\n",
        );
        assert_eq!(group.free(), Some(500));
        let older = Group {
            is_v2: false,
            ..group
        };
        assert_eq!(older.free(), None);
        write("memory.limit_in_bytes", "1000\n");
        write("memory.usage_in_bytes", "900\n");
        write(
            "memory.stat",
            "inactive_file 7\ntotal_inactive_file 20\ntotal_active_file 30\n",
        );
        assert_eq!(older.free(), Some(150));
    }

    #[test]
    fn this_machine_tells_what_is_free() {
        assert!(free_memory().unwrap() > 1 << 20);
        assert!(free_disk(Path::new("not/there/yet")).unwrap() > 0);
    }
}

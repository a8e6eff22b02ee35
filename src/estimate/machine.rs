//! Machines: this one, and some that are not here.

use std::fs;

use super::activations::{Numbers, ON_CPU, ON_CUDA};

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

/// Memory of the context of CUDA and of the kernels, about; not measured here.
const CUDA_CONTEXT: usize = 600 << 20;

/// What a process holds of a GPU before any model.
pub fn process_on_cuda(_vocabulary: usize, _gguf: bool) -> usize {
    CUDA_CONTEXT
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

pub fn numbers(is_cuda: bool) -> Numbers {
    match is_cuda {
        true => ON_CUDA,
        false => ON_CPU,
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

/// What the control group still allows, its caches counted as free (cgroup v2, else v1).
fn free_in_group() -> Option<u64> {
    let path = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = path.lines().find_map(|line| line.strip_prefix("0::"));
    let number =
        |path: String| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let groups = [own.unwrap_or("").trim_end_matches('/'), ""];
    let v2 = groups.iter().find_map(|group| {
        let base = format!("/sys/fs/cgroup{group}");
        let limit = number(format!("{base}/memory.max"))?;
        Some((
            base.clone(),
            limit,
            number(format!("{base}/memory.current"))?,
        ))
    });
    let v1 = || {
        let base = "/sys/fs/cgroup/memory".to_string();
        let limit = number(format!("{base}/memory.limit_in_bytes"))?;
        // Without a limit it is about 2⁶³.
        (limit < 1 << 60).then_some(())?;
        let used = number(format!("{base}/memory.usage_in_bytes"))?;
        Some((base, limit, used))
    };
    let (base, limit, used) = v2.or_else(v1)?;
    let stat = fs::read_to_string(format!("{base}/memory.stat")).unwrap_or_default();
    let cached = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    let cached: u64 = cached.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// Bytes that are free where `path` will be.
pub fn free_disk(path: &std::path::Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let there = path
        .ancestors()
        .find(|path| path.exists() && !path.as_os_str().is_empty());
    let there = there.unwrap_or(std::path::Path::new("."));
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
    fn this_machine_tells_what_is_free() {
        assert!(free_memory().unwrap() > 1 << 20);
        assert!(free_disk(std::path::Path::new("not/there/yet")).unwrap() > 0);
    }
}

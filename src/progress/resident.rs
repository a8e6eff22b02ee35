//! The memory that this process holds, as Linux tells it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Memory of this process, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most that this process had held when its peak was last begun anew.
static EARLIER_PEAK: AtomicU64 = AtomicU64::new(0);

/// The most memory that this process has held.
pub fn peak_resident_bytes() -> Option<u64> {
    let earlier = EARLIER_PEAK.load(Ordering::Relaxed);
    peak_since_begin().map(|peak| peak.max(earlier))
}

/// Begins the peak anew, at what is held now; false where the system cannot. Linux can where /proc may be written:
/// proc_pid_clear_refs(5).
pub fn begin_peak() -> bool {
    let before = peak_since_begin().unwrap_or(0);
    let begun = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    if begun {
        EARLIER_PEAK.fetch_max(before, Ordering::Relaxed);
    }
    begun
}

/// The most memory that this process has held since [`begin_peak`].
pub fn peak_since_begin() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

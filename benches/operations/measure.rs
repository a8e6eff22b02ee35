//! Time and memory of a closure.

use std::fs;
use std::time::Instant;

use burn::tensor::Device;

/// Seconds of each of `runs` runs, after one that does not count.
pub fn seconds(runs: usize, device: &Device, once: &mut dyn FnMut()) -> anyhow::Result<Vec<f64>> {
    once();
    device.sync()?;
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            once();
            device.sync()?;
            Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}

/// The most memory that the process holds from here on, beyond what it holds now. Linux only.
pub struct Peak {
    before: u64,
}

impl Peak {
    pub fn start() -> anyhow::Result<Self> {
        // 5 sets the high-water mark back to what is resident now.
        fs::write("/proc/self/clear_refs", "5")?;
        Ok(Self {
            before: status_bytes("VmRSS:")?,
        })
    }

    pub fn beyond(&self) -> anyhow::Result<u64> {
        Ok(status_bytes("VmHWM:")?.saturating_sub(self.before))
    }
}

fn status_bytes(key: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kibibytes = (status.lines())
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| anyhow::anyhow!("no {key} in /proc/self/status"))?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

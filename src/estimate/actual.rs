//! What stages took, held against what was planned.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data_facts::size_of;
use crate::json_file::read_json;
use crate::progress::{begin_peak, peak_since_begin};

/// What a stage took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Actual {
    /// The most resident memory while the stage ran; nothing where the system cannot tell it of a stage alone.
    pub peak_bytes: Option<u64>,
    pub seconds: f64,
    /// The median of the steps that are in the stage's metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_seconds: Option<f64>,
    /// Of its files at its end, checkpoints among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Sent to servers, in all runs of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// Measures a stage while it runs.
pub struct Meter {
    clock: Instant,
    is_alone: bool,
}

impl Meter {
    pub fn start() -> Self {
        Self {
            is_alone: begin_peak(),
            clock: Instant::now(),
        }
    }

    /// `directory`: the stage's.
    pub fn finish(self, directory: &Path) -> Actual {
        Actual {
            peak_bytes: peak_since_begin().filter(|_| self.is_alone),
            seconds: self.clock.elapsed().as_secs_f64(),
            step_seconds: median_step(&directory.join("metrics.jsonl")),
            disk_bytes: size_of(directory).ok(),
            requests: requests(&directory.join("ledger.json")),
        }
    }
}

fn requests(ledger: &Path) -> Option<u64> {
    let ledger: Value = read_json(ledger).ok()??;
    ledger["all_runs"]["requests"].as_u64()
}

/// The first step of a process pays for its memory, so it is left out: one step alone tells nothing.
fn median_step(metrics: &Path) -> Option<f64> {
    #[derive(Deserialize)]
    struct Line {
        seconds: Option<f64>,
    }
    let text = fs::read_to_string(metrics).ok()?;
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut seconds: Vec<f64> = lines.filter_map(|line: Line| line.seconds).collect();
    if seconds.is_empty() {
        return None;
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_step_leaves_out_the_first_and_what_is_no_step() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("metrics.jsonl");
        assert_eq!(median_step(&path), None);
        fs::write(&path, "{\"seconds\":9}\n").unwrap();
        assert_eq!(median_step(&path), None);
        let lines =
            "{\"heldout\":1}\n{\"seconds\":9}\n{\"seconds\":1}\n{\"seconds\":3}\n{\"seconds\":2}\n";
        fs::write(&path, lines).unwrap();
        assert_eq!(median_step(&path), Some(2.0));
    }
}

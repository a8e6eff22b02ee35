//! The end of a run: plan against actual, a part a line, kept in the run's directory.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};

use super::StageEstimate;
use super::actual::Actual;
use super::disk::{Lasts, bytes_of};
use crate::json_file::read_json;
use crate::plan::PlannedStage;
use crate::stages::write_json;

/// The file in the directory of a run.
pub const FILE: &str = "plan.json";

/// Every stage of a run with what was planned for it and what it took.
pub struct Comparison {
    stages: Vec<Compared>,
}

struct Compared {
    digest: String,
    estimate: StageEstimate,
    /// What was planned when the stage ran, if that was earlier.
    planned: Option<Value>,
    actual: Option<Actual>,
}

impl Comparison {
    /// `run`: the run's directory, where what earlier runs measured of the same stages is found.
    pub fn new(
        run: &Path,
        stages: &[PlannedStage],
        estimates: Vec<StageEstimate>,
        actual: &BTreeMap<usize, Actual>,
    ) -> Self {
        let mut earlier = earlier(&run.join(FILE));
        let stages = (stages.iter().zip(estimates)).map(|(stage, estimate)| {
            let digest = stage.digest.to_string();
            let (planned, actual) = match (actual.get(&stage.index), earlier.remove(&digest)) {
                (None, Some((planned, actual))) => (Some(planned), Some(actual)),
                (now, _) => (None, now.cloned()),
            };
            Compared {
                digest,
                estimate,
                planned,
                actual,
            }
        });
        Self {
            stages: stages.collect(),
        }
    }

    /// # Errors
    /// A disk that is full, or may not be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let stages = self.stages.iter().map(|stage| {
            let plan = (stage.planned.clone()).unwrap_or_else(|| json!(stage.estimate));
            json!({ "digest": stage.digest, "plan": plan, "actual": stage.actual })
        });
        let stages: Vec<Value> = stages.collect();
        write_json(&run.join(FILE), &json!({ "stages": stages }))
    }

    /// Of the stages that were measured; nothing where there are none.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for Compared {
            estimate, actual, ..
        } in &self.stages
        {
            let Some(actual) = actual else { continue };
            let bytes = |count: f64| BinaryBytes(count as u64).to_string();
            let count = |count: f64| HumanCount(count as u64).to_string();
            let written = bytes_of(&estimate.disk, Lasts::Stage);
            let whole = |count: Option<u64>| count.map(|count| count as f64);
            let memory = estimate.memory.as_ref().map(|memory| memory.total);
            let requests = estimate.requests.as_ref().map(|asked| asked.requests);
            let parts = [
                part("memory", whole(memory), whole(actual.peak_bytes), bytes),
                part("time", estimate.seconds, Some(actual.seconds), seconds),
                part(
                    "time a step",
                    estimate.step_seconds,
                    actual.step_seconds,
                    seconds,
                ),
                part(
                    "disk",
                    whole((written > 0).then_some(written)),
                    whole(actual.disk_bytes),
                    bytes,
                ),
                part("requests", whole(requests), whole(actual.requests), count),
            ];
            let mut name = estimate.name.as_deref().unwrap_or(estimate.kind);
            for (number, part) in parts.into_iter().flatten().enumerate() {
                let place = match number {
                    0 => format!("{:>3}", estimate.stage),
                    _ => String::new(),
                };
                let _ = writeln!(text, "{place:3} {name:20}  {part}");
                name = "";
            }
        }
        match text.is_empty() {
            true => text,
            false => format!("\nplan → actual\n{text}"),
        }
    }
}

/// `shown` writes a number of the part's unit.
fn part(
    name: &str,
    planned: Option<f64>,
    actual: Option<f64>,
    shown: impl Fn(f64) -> String,
) -> Option<String> {
    let actual = actual?;
    let taken = shown(actual);
    Some(match planned {
        Some(planned) => format!(
            "{name:11} {} → {taken} ({})",
            shown(planned),
            difference(planned, actual)
        ),
        None => format!("{name:11} ? → {taken}"),
    })
}

/// How far the actual is from the plan: +5 % is more than was planned.
pub fn difference(planned: f64, actual: f64) -> String {
    format!("{:+.0} %", 100.0 * (actual / planned.max(1e-9) - 1.0))
}

/// As short as it can be read.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.0995 => format!("{:.1} ms", 1000.0 * s),
        s if s < 99.5 => format!("{s:.2} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// What was planned and taken, by digest.
fn earlier(path: &Path) -> BTreeMap<String, (Value, Actual)> {
    let value: Value = read_json(path).ok().flatten().unwrap_or_default();
    let stages = value["stages"].as_array().cloned().unwrap_or_default();
    let measured = stages.into_iter().filter_map(|stage| {
        let digest = stage["digest"].as_str()?.to_string();
        let actual = serde_json::from_value(stage["actual"].clone()).ok()?;
        Some((digest, (stage["plan"].clone(), actual)))
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [0.0123, 2.5, 600.0, 7200.0, 400_000.0].map(seconds);
        assert_eq!(shown, ["12.3 ms", "2.50 s", "10 min", "2.0 h", "4.6 days"]);
        assert_eq!(difference(100.0, 105.0), "+5 %");
    }
}

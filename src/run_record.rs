//! `run.json`: the recipe as it was run, where, how it ended, and what its stages took. For the report alone: no stage
//! depends on it, and a run that cannot write it goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::estimate::actual::{Actual, Meter};
use crate::json_file::read_json;
use crate::plan::PlannedStage;
use crate::recipe::{Recipe, masked};
use crate::stages::write_json;

pub const RUN: &str = "run.json";

/// How a run, or a stage of it, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It runs, or was killed.
    NotYet,
    Finished,
    Stopped,
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRecord {
    pub recipe: String,
    pub preset: Option<String>,
    pub set: Vec<String>,
    /// The recipe's text, and what presets and `--set` made of it. Secrets are starred out.
    pub written: String,
    pub as_run: String,
    pub seed: u64,
    pub machine: Machine,
    /// Seconds since 1970.
    pub started: u64,
    pub seconds: Option<f64>,
    pub ended: Ended,
    /// As `lineage.json` has them.
    pub stages: Vec<Value>,
    /// By the name of the stage's directory; a stage that was interrupted has several.
    #[serde(default)]
    pub sittings: BTreeMap<String, Vec<Sitting>>,
}

/// What numbers may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub version: String,
    pub device: String,
    pub threads: usize,
    pub processor: Option<String>,
}

/// One process at work on one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sitting {
    pub started: u64,
    /// None of one that was killed.
    pub seconds: Option<f64>,
    pub peak_bytes: Option<u64>,
    pub ended: Ended,
    pub machine: Machine,
}

/// The record of the run under way.
pub struct RunLog {
    path: PathBuf,
    clock: Instant,
    stage: Option<(String, Meter)>,
    record: RunRecord,
    /// What the stages that this run finished have taken, by their numbers from 0.
    pub actual: BTreeMap<usize, Actual>,
}

impl RunLog {
    /// Begins the record of a run; what earlier ones noted of their stages stays.
    pub fn begin(
        directory: &Path,
        recipe: &Recipe,
        (preset, set): (Option<&str>, &[String]),
        device: String,
        stages: Vec<Value>,
    ) -> Self {
        let earlier = RunRecord::read(directory).unwrap_or_else(|error| {
            let path = directory.join(RUN);
            tracing::warn!(
                "{} cannot be read ({error:#}): it is written anew, without what earlier runs took",
                path.display()
            );
            None
        });
        let sittings = earlier.map_or_else(BTreeMap::new, |old| old.sittings);
        let machine = Machine {
            version: env!("CARGO_PKG_VERSION").to_string(),
            device,
            threads: rayon::current_num_threads(),
            processor: processor(),
        };
        let record = RunRecord {
            recipe: recipe.path.display().to_string(),
            preset: preset.map(str::to_string),
            set: set.iter().map(|flag| masked(flag)).collect(),
            written: recipe.as_written(),
            as_run: recipe.as_run(),
            seed: recipe.seed,
            machine,
            started: now(),
            seconds: None,
            ended: Ended::NotYet,
            stages,
            sittings,
        };
        let log = Self {
            path: directory.join(RUN),
            clock: Instant::now(),
            stage: None,
            record,
            actual: BTreeMap::new(),
        };
        log.save();
        log
    }

    pub fn stage_begins(&mut self, stage: &PlannedStage) {
        let Some(directory) = stage.directory.file_name() else {
            return;
        };
        let directory = directory.to_string_lossy().into_owned();
        let sitting = Sitting {
            started: now(),
            seconds: None,
            peak_bytes: None,
            ended: Ended::NotYet,
            machine: self.record.machine.clone(),
        };
        let sittings = self.record.sittings.entry(directory.clone()).or_default();
        sittings.push(sitting);
        self.stage = Some((directory, Meter::start()));
        self.save();
    }

    pub fn stage_ends(&mut self, stage: &PlannedStage, ended: Ended) {
        let Some((directory, meter)) = self.stage.take() else {
            return;
        };
        let actual = meter.finish(&stage.directory);
        let sittings = self.record.sittings.get_mut(&directory);
        if let Some(sitting) = sittings.and_then(|sittings| sittings.last_mut()) {
            sitting.seconds = Some(actual.seconds);
            sitting.peak_bytes = actual.peak_bytes;
            sitting.ended = ended.clone();
        }
        if ended == Ended::Finished {
            self.actual.insert(stage.index, actual);
        }
        self.save();
    }

    pub fn end(&mut self, ended: Ended) {
        self.record.seconds = Some(self.clock.elapsed().as_secs_f64());
        self.record.ended = ended;
        self.save();
    }

    fn save(&self) {
        let value = serde_json::to_value(&self.record).map_err(anyhow::Error::from);
        if let Err(error) = value.and_then(|value| write_json(&self.path, &value)) {
            tracing::warn!("{error:#}: the report of this run will lack it");
        }
    }
}

impl RunRecord {
    /// That of a run's directory, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, or says something else.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        read_json(&directory.join(RUN))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

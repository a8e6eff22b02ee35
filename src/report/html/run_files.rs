//! A run as its directory tells of it, finished or not. What is missing or broken is said, and is no error.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::expected::{CURVES, METRICS, TRAINING, fault, faults, named};
use super::page::{Limits, cut};
use super::planned::Plans;
use super::stage_files::{Described, StageFiles, State};
use super::training::Training;
use crate::counted::counted;
use crate::estimate::comparison::FILE as PLAN;
use crate::json_file::read_json;
use crate::run_record::{Ended, RUN, RunRecord};

const LINEAGE: &str = "lineage.json";
const STAGE: &str = "stage.json";

pub struct RunFiles {
    pub label: String,
    pub directory: PathBuf,
    pub record: Option<RunRecord>,
    pub stages: Vec<StageFiles>,
    /// Stages in the directory that are not of this recipe as it stands.
    others: usize,
    /// Files that are missing or broken, and what the report lacks for it.
    faults: Vec<String>,
}

#[derive(Deserialize)]
struct Lineage {
    stages: Vec<Described>,
}

impl RunFiles {
    /// # Errors
    /// A directory that holds no run.
    pub fn read(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            bail!(
                "{} is no directory\nhint: name what a run has left, such as runs/quickstart",
                directory.display()
            );
        }
        let mut faults = Vec::new();
        let record = read_record(directory, &mut faults);
        let (made, broken) = stages_made(directory);
        let of_record = (record.as_ref()).and_then(|record| planned_by(record, &mut faults));
        let of_lineage = || lineage(directory, &mut faults);
        let planned = (of_record.or_else(of_lineage)).unwrap_or_else(|| made.clone());
        let planned_in = |name: &str| planned.iter().find(|stage| stage.directory == name);
        for (name, error) in &broken {
            let lacks = match planned_in(name) {
                Some(stage) => format!(
                    "the report has what is known of {} from elsewhere",
                    stage.title()
                ),
                None => "the report lacks this stage".to_string(),
            };
            faults.push(format!("{name}/{STAGE} cannot be read ({error}): {lacks}"));
        }
        if planned.is_empty() {
            let faults: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
            bail!(
                "there is no run in {}: neither {RUN} nor {LINEAGE}, nor a stage that is done, can be read{faults}\n\
                 hint: name what `distill run` has made, such as runs/quickstart",
                directory.display()
            );
        }
        let others = made
            .iter()
            .filter(|stage| planned_in(&stage.directory).is_none());
        let others = others.count();
        let stages = (planned.into_iter())
            .map(|described| read_stage(directory, described, record.as_ref(), &mut faults));
        let stages = stages.collect();
        if let Err(error) = read_json::<Plans>(&directory.join(PLAN)) {
            faults.push(format!(
                "{PLAN} cannot be read ({error:#}): the report lacks plan against actual"
            ));
        }
        Ok(Self {
            label: file_name(directory),
            directory: directory.to_path_buf(),
            stages,
            record,
            others,
            faults,
        })
    }

    pub fn file_name(&self) -> String {
        file_name(&self.directory)
    }

    /// A JSON file of the run, if it is there and says what is expected.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        read_json(&self.directory.join(file)).ok().flatten()
    }

    /// Says on stderr what files are missing or broken.
    pub fn warn(&self) {
        for fault in &self.faults {
            tracing::warn!("{}: {fault}", self.directory.display());
        }
    }

    /// What is missing, and what went wrong.
    pub fn notices(&self, limits: &Limits) -> Vec<String> {
        let mut found = Vec::new();
        let mut say = |text: &str| found.push(cut(&format!("{}: {text}", self.label), limits.cell));
        match self.record.as_ref().map(|record| &record.ended) {
            None | Some(Ended::Finished) => {}
            Some(Ended::NotYet) => say("it is under way, or was killed"),
            Some(Ended::Stopped) => say("it was stopped; the same command goes on"),
            Some(Ended::Failed(why)) => say(&format!("it failed: {why}")),
        }
        for stage in &self.stages {
            match stage.state {
                State::Done => {}
                State::Begun => say(&format!("{} is not finished", stage.title())),
                State::NotBegun => say(&format!("{} has not begun", stage.title())),
            }
        }
        self.faults.iter().for_each(|fault| say(fault));
        if self.others > 0 {
            say(&format!(
                "{} more finished stages lie in the directory, of other settings; they are not part of this report",
                self.others
            ));
        }
        let most = limits.rows.min(40);
        if found.len() > most {
            let beyond = found.len() - most;
            found.truncate(most);
            found.push(format!("… {beyond} more"));
        }
        found
    }
}

fn read_record(directory: &Path, faults: &mut Vec<String>) -> Option<RunRecord> {
    let found = match RunRecord::read(directory) {
        Ok(Some(record)) => return Some(record),
        Ok(None) => "is missing".to_string(),
        Err(error) => format!("cannot be read ({error:#})"),
    };
    faults.push(format!(
        "{RUN} {found}: the report lacks recipe, times and memory; the next “distill run” writes it, and what is done is not \
         done again"
    ));
    None
}

/// The stages as the record of the run has them.
fn planned_by(record: &RunRecord, faults: &mut Vec<String>) -> Option<Vec<Described>> {
    let stages = record.stages.iter().cloned().map(serde_json::from_value);
    let stages: serde_json::Result<Vec<Described>> = stages.collect();
    let lost = |error: &serde_json::Error| {
        faults.push(format!(
            "the stages in {RUN} cannot be read ({error}): the report has those of {LINEAGE}"
        ));
    };
    stages.inspect_err(lost).ok()
}

fn lineage(directory: &Path, faults: &mut Vec<String>) -> Option<Vec<Described>> {
    let lost = |error: &anyhow::Error| {
        faults.push(format!(
            "{LINEAGE} cannot be read ({error:#}): the report has only stages that are done"
        ));
    };
    let lineage: Option<Lineage> = read_json(&directory.join(LINEAGE)).inspect_err(lost).ok()?;
    lineage.map(|lineage| lineage.stages)
}

fn read_stage(
    directory: &Path,
    described: Described,
    record: Option<&RunRecord>,
    found: &mut Vec<String>,
) -> StageFiles {
    // Beside its file, wherever the file says.
    let name = Path::new(&described.directory).file_name();
    let place = directory.join(name.unwrap_or_default());
    let sittings = record.and_then(|record| record.sittings.get(&described.directory));
    let (training, wrong) = match Training::read(&place.join(METRICS)) {
        Ok(training) => (training, None),
        Err(error) => (None, Some(error)),
    };
    let stage = StageFiles {
        state: match (place.join(STAGE).exists(), is_filled(&place)) {
            (true, _) => State::Done,
            (false, true) => State::Begun,
            (false, false) => State::NotBegun,
        },
        training,
        sittings: sittings.cloned().unwrap_or_default(),
        directory: place,
        described,
    };
    let there = wrong.map_or(Ok(stage.training.is_some()), Err);
    let is_due = stage.state == State::Done && stage.is(&TRAINING);
    found.extend(fault(&stage, METRICS, there, is_due, CURVES));
    let lost = stage.training.as_ref().map_or(0, |read| read.unreadable);
    if lost > 0 {
        found.push(format!(
            "{} of {} cannot be read: the curves lack them",
            counted(lost, "lines"),
            named(&stage, METRICS)
        ));
    }
    found.extend(faults(&stage));
    stage
}

/// Two runs whose directories have the same name are called by their paths.
pub fn tell_apart(runs: &mut [RunFiles]) {
    if let [a, b] = runs
        && a.label == b.label
    {
        for run in [a, b] {
            run.label = run.directory.display().to_string();
        }
    }
}

fn file_name(directory: &Path) -> String {
    let whole = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_path_buf());
    let name = whole
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| directory.display().to_string())
}

/// The finished stages of a directory, by number; and of those that do not say what they are, the directory's name and why.
fn stages_made(directory: &Path) -> (Vec<Described>, Vec<(String, String)>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    for place in (entries.map(|entry| entry.path())).filter(|path| path.is_dir()) {
        match read_json::<Described>(&place.join(STAGE)) {
            Ok(stage) => found.extend(stage),
            Err(error) => broken.push((file_name(&place), format!("{error:#}"))),
        }
    }
    found.sort_by(|a, b| (a.stage, &a.directory).cmp(&(b.stage, &b.directory)));
    broken.sort();
    (found, broken)
}

fn is_filled(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

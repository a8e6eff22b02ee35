//! A run as its directory tells of it, finished or not. What is missing is said, and is no error.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::page::{Limits, cut};
use super::training::Training;
use crate::counted::counted;
use crate::run_record::{Ended, RunRecord, Sitting};

/// Bytes that are read of a file of samples, at its beginning and at its end.
const READ: u64 = 1 << 20;

pub struct RunFiles {
    pub label: String,
    pub directory: PathBuf,
    pub record: Option<RunRecord>,
    pub stages: Vec<StageFiles>,
    /// Stages in the directory that are not of this recipe as it stands.
    others: usize,
}

pub struct StageFiles {
    pub described: Described,
    pub directory: PathBuf,
    pub state: State,
    pub training: Option<Training>,
    pub sittings: Vec<Sitting>,
}

/// A stage as `stage.json` and `lineage.json` have it.
#[derive(Debug, Clone, Deserialize)]
pub struct Described {
    pub stage: usize,
    pub kind: String,
    #[serde(rename = "as")]
    pub name: Option<String>,
    pub digest: String,
    pub directory: String,
    pub inputs: Vec<NamedInput>,
    pub seed: u64,
    pub version: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct NamedInput {
    pub key: String,
    pub name: String,
    pub digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Done,
    /// It has left something, but not all.
    Begun,
    NotBegun,
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
        let record = RunRecord::read(directory);
        let made = stages_made(directory);
        let of_record = record.as_ref().and_then(|record| {
            let stages = record.stages.iter().cloned().map(serde_json::from_value);
            stages.collect::<Result<Vec<Described>, _>>().ok()
        });
        let of_lineage = || {
            let lineage: Option<Lineage> = json(&directory.join("lineage.json"));
            lineage.map(|lineage| lineage.stages)
        };
        let planned = of_record
            .or_else(of_lineage)
            .unwrap_or_else(|| made.clone());
        if planned.is_empty() {
            bail!(
                "there is no run in {}: neither run.json nor lineage.json, nor a stage that is done\n\
                 hint: name what `distill run` has made, such as runs/quickstart",
                directory.display()
            );
        }
        let is_planned = |other: &Described| planned.iter().any(|s| s.directory == other.directory);
        let others = made.iter().filter(|stage| !is_planned(stage)).count();
        let sittings = record.as_ref().map(|record| &record.sittings);
        let stages = planned.into_iter().map(|described| {
            // Beside its file, wherever the file says.
            let name = Path::new(&described.directory).file_name();
            let place = directory.join(name.unwrap_or_default());
            StageFiles {
                state: match (place.join("stage.json").exists(), is_filled(&place)) {
                    (true, _) => State::Done,
                    (false, true) => State::Begun,
                    (false, false) => State::NotBegun,
                },
                training: Training::read(&place.join("metrics.jsonl")),
                sittings: (sittings.and_then(|all| all.get(&described.directory)))
                    .cloned()
                    .unwrap_or_default(),
                directory: place,
                described,
            }
        });
        Ok(Self {
            label: file_name(directory),
            directory: directory.to_path_buf(),
            stages: stages.collect(),
            record,
            others,
        })
    }

    pub fn file_name(&self) -> String {
        file_name(&self.directory)
    }

    /// What is missing, and what went wrong.
    pub fn notices(&self, limits: &Limits) -> Vec<String> {
        let mut found = Vec::new();
        let mut say =
            |text: String| found.push(cut(&format!("{}: {text}", self.label), limits.cell));
        match &self.record {
            None => say(
                "it has no run.json, so recipe, times and memory are not known; the next “distill run” writes it, \
                 and what is done is not done again"
                    .to_string(),
            ),
            Some(record) => match &record.ended {
                Ended::Finished => {}
                Ended::NotYet => say("it is under way, or was killed".to_string()),
                Ended::Stopped => {
                    say("it was stopped; the same command goes on".to_string());
                }
                Ended::Failed(why) => say(format!("it failed: {why}")),
            },
        }
        for stage in &self.stages {
            match stage.state {
                State::Done => {}
                State::Begun => say(format!("{} is not finished", stage.title())),
                State::NotBegun => say(format!("{} has not begun", stage.title())),
            }
            for file in ["scores.json", "counts.json", "ledger.json", "seen.json"] {
                let path = stage.directory.join(file);
                if path.exists() && json::<Value>(&path).is_none() {
                    say(format!("{file} of {} cannot be read", stage.title()));
                }
            }
            let lost = stage.training.as_ref().map_or(0, |found| found.unreadable);
            if lost > 0 {
                let title = stage.title();
                let lost = counted(lost, "lines");
                say(format!("{lost} of metrics.jsonl of {title} cannot be read"));
            }
        }
        if self.others > 0 {
            say(format!(
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

impl StageFiles {
    /// `2 distill → student`
    pub fn title(&self) -> String {
        let Described {
            stage, kind, name, ..
        } = &self.described;
        match name {
            Some(name) => format!("{stage} {kind} → {name}"),
            None => format!("{stage} {kind}"),
        }
    }

    pub fn is(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.described.kind.as_str())
    }

    /// The input under a key, or under one that begins with it and a dot.
    pub fn input(&self, key: &str) -> Option<&NamedInput> {
        let below = format!("{key}.");
        let fits = |input: &&NamedInput| input.key == key || input.key.starts_with(&below);
        self.described.inputs.iter().find(fits)
    }

    /// A JSON file of the stage, if it is there and says what is expected.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        json(&self.directory.join(file))
    }

    /// The first records of a file of lines, or of what there is of it.
    pub fn first_records(&self, file: &str, count: usize) -> Vec<Value> {
        let whole = self.directory.join(file);
        let partial = self.directory.join(format!("{file}.partial"));
        let opened = File::open(whole).or_else(|_| File::open(partial));
        let Ok(file) = opened else {
            return Vec::new();
        };
        let lines = BufReader::new(file.take(READ))
            .split(b'\n')
            .map_while(Result::ok);
        let records = lines.filter_map(|line| serde_json::from_slice(&line).ok());
        records.take(count).collect()
    }

    /// The last records of a file of lines.
    pub fn last_records(&self, file: &str, count: usize) -> Vec<Value> {
        let Ok(mut file) = File::open(self.directory.join(file)) else {
            return Vec::new();
        };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = Vec::new();
        let read = file
            .seek(SeekFrom::Start(length.saturating_sub(READ)))
            .and_then(|_| file.take(READ).read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
        let lines = bytes.rsplit(|byte| *byte == b'\n');
        let records = lines.filter_map(|line| serde_json::from_slice(line).ok());
        let mut found: Vec<Value> = records.take(count).collect();
        found.reverse();
        found
    }

    /// The names of its files that begin with `prefix`, sorted.
    pub fn files(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut found: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        found.sort();
        found
    }
}

impl RunFiles {
    /// A JSON file of the run, if it is there and says what is expected.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Option<T> {
        json(&self.directory.join(file))
    }
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

fn json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// The finished stages of a directory, by number.
fn stages_made(directory: &Path) -> Vec<Described> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<Described> = entries
        .filter_map(|entry| json(&entry.path().join("stage.json")))
        .collect();
    found.sort_by(|a, b| (a.stage, &a.directory).cmp(&(b.stage, &b.directory)));
    found
}

fn is_filled(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

//! A stage as its directory tells of it, done or not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::training::Training;
use crate::json_file::read_json;
use crate::run_record::Sitting;

/// Bytes that are read of a file of samples, at its beginning and at its end.
const READ: u64 = 1 << 20;

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

impl Described {
    /// `2 distill → student`
    pub fn title(&self) -> String {
        let Self {
            stage, kind, name, ..
        } = self;
        match name {
            Some(name) => format!("{stage} {kind} → {name}"),
            None => format!("{stage} {kind}"),
        }
    }
}

impl StageFiles {
    pub fn title(&self) -> String {
        self.described.title()
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
        read_json(&self.directory.join(file)).ok().flatten()
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

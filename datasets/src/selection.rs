//! What a filter leaves: the records that it keeps, those that it dropped and why, and counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::error::DataError;
use crate::layout::DropReason;
use crate::records::Record;

pub const DROPPED: &str = "dropped.jsonl";
pub const COUNTS: &str = "counts.json";
/// The rule of records that say nothing.
const UNUSABLE: &str = "no text";
/// Characters of a dropped record that are shown.
const EXCERPT: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub records: u64,
    pub kept: u64,
    /// By rule, in the order in which rules are asked; a record counts for the first that objects.
    pub dropped: Vec<RuleCount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    pub rule: String,
    pub records: u64,
    /// Of a rule with few reasons, how many records each of them took.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
}

/// Files that are being written; each gets its name when all are whole.
pub struct Selection {
    directory: PathBuf,
    name: String,
    kept: BufWriter<NamedTempFile>,
    dropped: BufWriter<NamedTempFile>,
    counts: Counts,
}

impl Selection {
    /// Kept records will lie in `name` in `directory`.
    pub fn new(directory: &Path, name: &str, rules: &[String]) -> Result<Self, DataError> {
        let aside = || {
            let mut builder = tempfile::Builder::new();
            // A temporary file is for its owner alone; this one becomes an ordinary one.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let file = builder.prefix(".partial-").tempfile_in(directory);
            file.map(|file| BufWriter::with_capacity(1 << 20, file))
                .map_err(DataError::io("write in", directory))
        };
        let rules = std::iter::once(UNUSABLE).chain(rules.iter().map(String::as_str));
        let dropped = rules.map(|rule| RuleCount {
            rule: rule.to_string(),
            records: 0,
            reasons: BTreeMap::new(),
        });
        Ok(Self {
            directory: directory.to_path_buf(),
            name: name.to_string(),
            kept: aside()?,
            dropped: aside()?,
            counts: Counts {
                records: 0,
                kept: 0,
                dropped: dropped.collect(),
            },
        })
    }

    pub fn keep(&mut self, record: &Record) -> Result<(), DataError> {
        self.counts.records += 1;
        self.counts.kept += 1;
        writeln!(self.kept, "{}", record.line)
            .map_err(DataError::io("write", &self.directory.join(&self.name)))
    }

    /// Drops a record that says nothing.
    pub fn unusable(&mut self, record: &Record, reason: DropReason) -> Result<(), DataError> {
        self.put_aside(record, 0, reason.describe(), &record.line)
    }

    /// Drops a record by the rule of this number, from 0; `text` is what the rule looked at.
    pub fn drop(
        &mut self,
        record: &Record,
        rule: usize,
        detail: &str,
        text: &str,
    ) -> Result<(), DataError> {
        self.put_aside(record, rule + 1, detail, text)
    }

    /// Counts a record that the rule of this number drops under the reason, too.
    pub fn count_reason(&mut self, rule: usize, reason: &str) {
        let reasons = &mut self.counts.dropped[rule + 1].reasons;
        *reasons.entry(reason.to_string()).or_default() += 1;
    }

    fn put_aside(
        &mut self,
        record: &Record,
        rule: usize,
        detail: &str,
        text: &str,
    ) -> Result<(), DataError> {
        self.counts.records += 1;
        let count = &mut self.counts.dropped[rule];
        count.records += 1;
        let line = json!({
            "record": record.number,
            "rule": count.rule,
            "detail": detail,
            "excerpt": excerpt(text),
        });
        writeln!(self.dropped, "{line}")
            .map_err(DataError::io("write", &self.directory.join(DROPPED)))
    }

    /// Gives the files their names.
    ///
    /// # Errors
    /// When nothing was kept: then no file is left.
    pub fn finish(self) -> Result<Counts, DataError> {
        let counts = self.counts;
        if counts.kept == 0 {
            return Err(DataError::NothingKept {
                records: counts.records,
                found: counts.in_words(),
            });
        }
        let text = serde_json::to_string_pretty(&counts).unwrap_or_default() + "\n";
        let at = |name: &str| self.directory.join(name);
        settle(self.dropped, &at(DROPPED))?;
        std::fs::write(at(COUNTS), text).map_err(DataError::io("write", &at(COUNTS)))?;
        // The data last: where it lies, its account does.
        settle(self.kept, &at(&self.name))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(DataError::io("sync", &self.directory))?;
        Ok(counts)
    }
}

impl Counts {
    fn in_words(&self) -> String {
        let rules = self.dropped.iter().filter(|count| count.records > 0);
        let words: Vec<String> = rules
            .map(|count| format!("{} {}", count.rule, count.records))
            .collect();
        words.join(", ")
    }
}

fn settle(writer: BufWriter<NamedTempFile>, path: &Path) -> Result<(), DataError> {
    let failed = || DataError::io("write", path);
    let file = writer
        .into_inner()
        .map_err(|error| failed()(error.into_error()))?;
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_string(),
    }
}

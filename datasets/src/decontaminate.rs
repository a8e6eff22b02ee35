//! Removes records that hold texts of evaluation sets: shared runs of words, as in GPT-3 (Brown et al., arXiv 2005.14165,
//! appendix C).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::chunks::go_on;
use crate::config::DataConfig;
use crate::error::DataError;
use crate::records::{Record, read_batches};
use crate::scan::{Parsed, scan};
use crate::selection::{Counts, Selection};
use crate::texts::{fields, texts};
use crate::words::{hash_ngram, normalise, word_hashes, words};

/// A benchmark text of fewer words is no proof where it stands inside a longer one: GPT-3's least run.
const LEAST_RUN: usize = 8;

/// What must not be trained on: hashes of runs of words, each with the number of its set.
pub struct Benchmarks {
    names: Vec<String>,
    ngram: usize,
    /// By their length: `ngram`, and the lengths of shorter texts.
    runs: BTreeMap<usize, HashMap<u64, u16>>,
    /// Texts that count only where they are a whole text of a record.
    whole: HashMap<u64, u16>,
}

impl Benchmarks {
    /// Reads evaluation sets. Of their records count the columns that the recipe names, or else all texts in them, at any depth. A text
    /// of `ngram` words or more gives all its runs; a shorter one of at least 8 words is one run. Of a record whose texts are all shorter,
    /// the longest counts where it is a whole text.
    ///
    /// # Errors
    /// A set that cannot be read, or has no words.
    pub fn read(sets: &[(String, DataConfig<PathBuf>)], ngram: usize) -> Result<Self, DataError> {
        let mut benchmarks = Self {
            names: sets.iter().map(|(name, _)| name.clone()).collect(),
            ngram,
            runs: BTreeMap::new(),
            whole: HashMap::new(),
        };
        for (set, (_, config)) in sets.iter().enumerate() {
            let mut words = 0;
            let mut wanted = config.limit.unwrap_or(usize::MAX);
            read_batches(config, &mut |batch| {
                for record in batch.iter().take(wanted) {
                    words += benchmarks.add(set as u16, &texts_to_avoid(record, config)?);
                }
                wanted = wanted.saturating_sub(batch.len());
                Ok(go_on(wanted > 0))
            })?;
            if words == 0 {
                return Err(DataError::Empty {
                    path: config.source.clone(),
                    found: "there are no words in it to look for".into(),
                });
            }
        }
        Ok(benchmarks)
    }

    /// How many words the texts have.
    fn add(&mut self, set: u16, texts: &[String]) -> usize {
        let hashes: Vec<Vec<u64>> = texts.iter().map(|text| word_hashes(text)).collect();
        let least = LEAST_RUN.min(self.ngram);
        for text in hashes.iter().filter(|text| text.len() >= least) {
            let length = self.ngram.min(text.len());
            let runs = self.runs.entry(length).or_default();
            for run in text.windows(length) {
                runs.entry(hash_ngram(run)).or_insert(set);
            }
        }
        let longest = hashes.iter().max_by_key(|text| text.len());
        if let Some(longest) = longest.filter(|text| (1..least).contains(&text.len())) {
            self.whole.entry(hash_ngram(longest)).or_insert(set);
        }
        hashes.iter().map(Vec::len).sum()
    }

    /// A run of words in `text` that a benchmark has, with the benchmark's number.
    fn find(&self, text: &str) -> Option<(String, usize)> {
        let hashes = word_hashes(text);
        let (start, length, set) = self.find_run(&hashes)?;
        let text = normalise(text);
        let run: Vec<&str> = words(&text).skip(start).take(length).collect();
        Some((run.join(" "), usize::from(set)))
    }

    fn find_run(&self, words: &[u64]) -> Option<(usize, usize, u16)> {
        if let Some(set) = self.whole.get(&hash_ngram(words)) {
            return Some((0, words.len(), *set));
        }
        self.runs.iter().find_map(|(length, runs)| {
            let mut windows = words.windows(*length).enumerate();
            windows.find_map(|(start, run)| Some((start, *length, *runs.get(&hash_ngram(run))?)))
        })
    }
}

fn texts_to_avoid(record: &Record, config: &DataConfig<PathBuf>) -> Result<Vec<String>, DataError> {
    let fields = fields(record)?;
    if config.columns.is_some() {
        let found = texts(record, &fields, config.columns.as_ref())?;
        return Ok(found.unwrap_or_default());
    }
    let mut found = Vec::new();
    fields.values().for_each(|value| collect(value, &mut found));
    Ok(found)
}

/// All strings in a value.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// Writes the records of `data` that hold nothing of the benchmarks to `name` in `directory`, unchanged and in their order.
///
/// # Errors
/// Data that cannot be read, a disk that is full, and nothing left; no file is left then.
pub fn decontaminate(
    data: &DataConfig<PathBuf>,
    benchmarks: &Benchmarks,
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    let mut selection = Selection::new(directory, name, &benchmarks.names)?;
    let judge = |parsed: &Parsed| {
        let found = parsed.texts.iter().find_map(|text| {
            let (run, set) = benchmarks.find(text)?;
            Some((set, run, text.clone()))
        });
        Ok(found)
    };
    scan(data, judge, |record, found| match found {
        Err(reason) => selection.unusable(record, reason),
        Ok(None) => selection.keep(record),
        Ok(Some((set, run, text))) => selection.drop(record, set, &run, &text),
    })?;
    selection.finish()
}

#[cfg(test)]
mod tests;

//! `seen.json`: what a training stage was given to read. How samples became rows, and the first of them with their masks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use datasets::loader::BatchLoader;
use datasets::packing::PackingReport;
use datasets::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::{Chain, write_json};
use crate::masked_runs::{MaskedRun, masked_runs};
use crate::plan::PlannedStage;

const SEEN: &str = "seen.json";
/// Samples that are kept of each part of the data, and tokens of each of them.
const SAMPLES: usize = 4;
const TOKENS: usize = 768;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Whether two samples in a row are the sides of a pair.
    pub pairs: bool,
    pub sequence_length: usize,
    pub batches_per_epoch: u64,
    pub supervised_tokens: u64,
    /// Samples in which nothing is learned.
    pub without_targets: u64,
    /// Pairs whose answers are equal, and those with an empty prompt or answer.
    pub equal_pairs: u64,
    pub empty_pairs: u64,
    pub packing: PackingReport,
    pub samples: Vec<SeenSample>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenSample {
    /// Which part of the stage's data it is from, and which sample of it, both from 0.
    pub part: usize,
    pub number: usize,
    pub tokens: usize,
    /// How many of them lie within the sequence length. What is beyond follows in sequences of its own, or is cut off.
    pub fits: usize,
    pub splittable: bool,
    /// The beginning.
    pub runs: Vec<MaskedRun>,
    pub shown: usize,
}

impl Seen {
    fn of(data: &BatchLoader, tokenizer: &Tokenizer) -> Self {
        let caches = data.corpus().caches();
        let packing = data.report();
        let sequence_length = data.config().sequence_length;
        let sum = |count: fn(&datasets::cache::TokenCache) -> u64| {
            caches.iter().map(|cache| count(cache)).sum::<u64>()
        };
        let samples = caches.iter().enumerate().flat_map(|(part, cache)| {
            (0..cache.len().min(SAMPLES)).map(move |number| {
                let sample = cache.sample(number);
                let fits = sample.ids.len().min(sequence_length);
                let shown = fits.min(TOKENS);
                let ids = &sample.ids[..shown];
                SeenSample {
                    part,
                    number,
                    tokens: sample.ids.len(),
                    fits,
                    splittable: sample.splittable,
                    runs: masked_runs(tokenizer, ids, &sample.supervised[..shown]),
                    shown,
                }
            })
        });
        Self {
            pairs: data.holds_pairs(),
            sequence_length,
            batches_per_epoch: data.batches_per_epoch(),
            supervised_tokens: sum(|cache| cache.supervised()),
            without_targets: sum(|cache| cache.without_targets()),
            equal_pairs: sum(|cache| cache.left_out().equal) + packing.equal_samples / 2,
            empty_pairs: sum(|cache| cache.left_out().empty),
            packing,
            samples: samples.collect(),
        }
    }

    /// What a stage has kept of it, if it has.
    ///
    /// # Errors
    /// A file that holds something else.
    pub fn read(stage: &Path) -> Result<Option<Self>> {
        let path = stage.join(SEEN);
        let Ok(text) = fs::read_to_string(&path) else {
            return Ok(None);
        };
        let read = serde_json::from_str(&text);
        read.map(Some)
            .with_context(|| format!("{} does not say what was seen", path.display()))
    }
}

impl Chain<'_> {
    pub(super) fn write_seen(
        &self,
        stage: &PlannedStage,
        data: &BatchLoader,
        tokenizer: &Tokenizer,
    ) -> Result<()> {
        let seen = Seen::of(data, tokenizer);
        fs::create_dir_all(&stage.directory)
            .with_context(|| format!("cannot create {}", stage.directory.display()))?;
        write_json(&stage.directory.join(SEEN), &serde_json::to_value(seen)?)
    }
}

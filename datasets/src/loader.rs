//! Batches by number.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::DataError;
use crate::mixture::{Corpus, mixed_order};
use crate::packing::{Packing, PackingPlan, PackingReport, SampleShape, pair_lengths};
use crate::random::Random;

/// How batches are cut from a corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Tokens a row, at least 2.
    pub sequence_length: usize,
    pub batch: BatchSize,
    pub seed: u64,
    /// Stages of one recipe draw their own orders from the same seed.
    #[serde(default)]
    pub stage: String,
    #[serde(default)]
    pub packing: Packing,
    /// The id that fills up rows; it is never a target.
    #[serde(default)]
    pub pad: u32,
}

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    Rows(usize),
    /// Positions, padding included: this many divided by the sequence length are the rows.
    Tokens(usize),
}

/// Gives the batch of any number, as a pure function of the corpus, the configuration and that number.
#[derive(Debug)]
pub struct BatchLoader {
    corpus: Corpus,
    config: LoaderConfig,
    rows: usize,
    shapes: Vec<SampleShape>,
    /// Whether sample 2i + 1 belongs to sample 2i.
    pairs: bool,
    /// Numbers of the samples that have a target within the sequence length, by part; of pairs their first samples.
    usable: Vec<Vec<u32>>,
    dropped: Dropped,
    state: Mutex<State>,
}

/// What has been computed so far; none of it changes the result.
/// What no epoch sees.
#[derive(Debug, Clone, Copy, Default)]
struct Dropped {
    samples: u64,
    /// Samples of pairs whose sides are the same tokens.
    equal: u64,
    tokens: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the first batch after each epoch.
    epoch_ends: Vec<u64>,
    plans: VecDeque<(u64, Arc<PackingPlan>)>,
}

impl BatchLoader {
    /// Fails on sizes that make no sense and when a part of the corpus has no target within the sequence length.
    pub fn new(corpus: impl Into<Corpus>, config: LoaderConfig) -> Result<Self, DataError> {
        Self::of_units(corpus.into(), config, false)
    }

    /// As [`Self::new`], for a corpus of [`TokenCache::of_pairs`](crate::cache::TokenCache::of_pairs): both sides of a pair
    /// stand next to each other in one row. A stream has no place for pairs, and takes one a row.
    pub fn of_pairs(corpus: impl Into<Corpus>, config: LoaderConfig) -> Result<Self, DataError> {
        Self::of_units(corpus.into(), config, true)
    }

    fn of_units(corpus: Corpus, config: LoaderConfig, pairs: bool) -> Result<Self, DataError> {
        let setting = |key, found: usize, expected: &str| DataError::Setting {
            key,
            found: found.to_string(),
            expected: expected.to_string(),
        };
        let length = config.sequence_length;
        if !(2..=1 << 30).contains(&length) {
            return Err(setting(
                "sequence_length",
                length,
                "at least 2 and at most 2^30",
            ));
        }
        let rows = match config.batch {
            BatchSize::Rows(rows) => rows,
            BatchSize::Tokens(tokens) if tokens % length != 0 => {
                let expected = format!("a multiple of sequence_length = {length}");
                return Err(setting("tokens_per_batch", tokens, &expected));
            }
            BatchSize::Tokens(tokens) => tokens / length,
        };
        if rows == 0 || rows.checked_mul(length).is_none() {
            return Err(setting("rows", rows, "at least 1"));
        }
        let shapes = corpus.shapes();
        let unit = if pairs { 2 } else { 1 };
        let samples_of = |number: u32| &shapes[number as usize..number as usize + unit];
        let kept_ids =
            |number: u32, kept: u32| &corpus.sample(number as usize).ids[..kept as usize];
        let kept = |sides: [SampleShape; 2]| pair_lengths(&sides, length as u32);
        let is_equal = |number: u32| match samples_of(number) {
            [chosen, rejected] if pairs => kept([*chosen, *rejected])
                .is_some_and(|[a, b]| kept_ids(number, a) == kept_ids(number + 1, b)),
            _ => false,
        };
        let is_usable = |number: u32| match samples_of(number) {
            [chosen, rejected] => kept([*chosen, *rejected]).is_some() && !is_equal(number),
            [sample, ..] => sample.is_usable(length, config.packing),
            [] => false,
        };
        let numbers = || (0..corpus.len() as u32).step_by(unit);
        let usable = corpus.by_part(numbers().filter(|number| is_usable(*number)));
        if let Some(part) = usable.iter().position(Vec::is_empty) {
            let set = format!("data set {} of {}", part + 1, usable.len());
            return Err(match pairs {
                false => DataError::NothingSupervised {
                    found: format!(
                        "{set}: no sample has a completion that begins within sequence_length = {length}"
                    ),
                },
                true => DataError::NothingPreferred {
                    found: format!(
                        "{set}: of no pair both answers begin, and differ, within a row of sequence_length = {length}"
                    ),
                },
            });
        }
        let mut dropped = Dropped::default();
        for number in numbers().filter(|number| !is_usable(*number)) {
            let lengths = samples_of(number).iter().map(|s| u64::from(s.length));
            dropped.tokens += lengths.sum::<u64>();
            match is_equal(number) {
                true => dropped.equal += unit as u64,
                false => dropped.samples += unit as u64,
            }
        }
        Ok(Self {
            corpus,
            config,
            rows,
            shapes,
            pairs,
            usable,
            dropped,
            state: Mutex::default(),
        })
    }

    /// Batch `number`, counted from 0 over all epochs. The last batch of an epoch is filled up with padding rows; every
    /// batch holds at least one target.
    pub fn batch(&self, number: u64) -> Batch {
        let (epoch, first) = self.epoch_of(number);
        let plan = self.plan(epoch);
        let first_row = (number - first) as usize * self.rows;
        let mut batch = Batch::padding(self.rows, self.config.sequence_length, self.config.pad);
        for row in 0..self.rows {
            batch.fill_row(row, plan.row(first_row + row), &self.corpus);
        }
        batch
    }

    /// The epoch that a batch belongs to, and the number of that epoch's first batch.
    pub fn epoch_of(&self, number: u64) -> (u64, u64) {
        // The rows of a single data set are as many in every epoch; those of a mixture are not, nor those of a stream,
        // where the order decides which samples are cut and which rows hold no target.
        if self.corpus.parts() == 1 && self.config.packing != Packing::Stream {
            let batches = self.batches_in(&self.plan(0)).max(1);
            let epoch = number / batches;
            return (epoch, epoch * batches);
        }
        loop {
            let (known, end) = {
                let state = self.locked();
                let ends = &state.epoch_ends;
                let epoch = ends.partition_point(|end| *end <= number);
                if epoch < ends.len() {
                    let first = if epoch == 0 { 0 } else { ends[epoch - 1] };
                    return (epoch as u64, first);
                }
                (ends.len(), ends.last().copied().unwrap_or(0))
            };
            let end = end + self.batches_in(&self.plan(known as u64));
            let mut state = self.locked();
            if state.epoch_ends.len() == known {
                state.epoch_ends.push(end);
            }
        }
    }

    /// Batches of the first epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.batches_in(&self.plan(0))
    }

    fn batches_in(&self, plan: &PackingPlan) -> u64 {
        plan.rows().div_ceil(self.rows) as u64
    }

    /// What becomes of the samples in the first epoch; dropped ones are those of the whole corpus.
    pub fn report(&self) -> PackingReport {
        let mut report = self.plan(0).report();
        let Dropped {
            samples,
            equal,
            tokens,
        } = self.dropped;
        report.samples += samples + equal;
        report.tokens += tokens;
        report.dropped_samples += samples;
        report.equal_samples += equal;
        report.dropped_tokens += tokens;
        report
    }

    /// Targets that count in one batch.
    pub fn supervised_count(&self, number: u64) -> usize {
        self.batch(number).supervised_count()
    }

    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// Whether sample 2i + 1 belongs to sample 2i.
    pub fn holds_pairs(&self) -> bool {
        self.pairs
    }

    /// Rows a batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The plan of an epoch; the last two are kept.
    fn plan(&self, epoch: u64) -> Arc<PackingPlan> {
        if let Some((_, plan)) = self.locked().plans.iter().find(|(e, _)| *e == epoch) {
            return plan.clone();
        }
        let LoaderConfig {
            seed,
            stage,
            sequence_length,
            packing,
            ..
        } = &self.config;
        let order = mixed_order(&self.usable, self.corpus.shares(), *seed, stage, epoch);
        let mut random = Random::new(*seed, stage, epoch, "order of rows");
        let plan = match self.pairs {
            true => {
                let length = *sequence_length;
                PackingPlan::of_pairs(&self.shapes, &order, length, *packing, &mut random)
            }
            false => PackingPlan::new(
                &self.shapes,
                &order,
                *sequence_length,
                *packing,
                |piece| {
                    let sample = self.corpus.sample(piece.sample as usize);
                    sample.supervised[piece.predicted()].iter().any(|s| *s != 0)
                },
                &mut random,
            ),
        };
        let plan = Arc::new(plan);
        let mut state = self.locked();
        state.plans.push_back((epoch, plan.clone()));
        // Epoch 0 is asked for again and again: it gives the number of batches.
        while state.plans.len() > 3 {
            let oldest = usize::from(state.plans[0].0 == 0);
            state.plans.remove(oldest);
        }
        plan
    }

    /// The pairs of the first `batches` batches, by their first samples, rising.
    pub fn pairs_of(&self, batches: u64) -> Vec<u32> {
        let all: usize = self.usable.iter().map(Vec::len).sum();
        let mut found = BTreeSet::new();
        for number in 0..batches {
            let (epoch, first) = self.epoch_of(number);
            let plan = self.plan(epoch);
            let first_row = (number - first) as usize * self.rows;
            let rows = (first_row..first_row + self.rows).flat_map(|row| plan.row(row));
            found.extend(rows.step_by(2).map(|piece| piece.sample));
            if found.len() == all {
                break;
            }
        }
        found.into_iter().collect()
    }

    /// Batches of `rows` rows that hold just these pairs, each once: a function of the pairs and the sequence length.
    pub fn batches_of_pairs(&self, pairs: &[u32], rows: usize) -> impl Iterator<Item = Batch> {
        let length = self.config.sequence_length;
        let mut random = Random::new(0, "", 0, "pairs");
        let plan = PackingPlan::of_pairs(&self.shapes, pairs, length, Packing::Pack, &mut random);
        (0..plan.rows().div_ceil(rows)).map(move |number| {
            let mut batch = Batch::padding(rows, length, self.config.pad);
            for row in 0..rows {
                batch.fill_row(row, plan.row(number * rows + row), &self.corpus);
            }
            batch
        })
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds batches `from`, `from + 1`, … on a thread of its own, at most `depth` ahead.
    pub fn prefetch(self: &Arc<Self>, from: u64, depth: usize) -> Prefetch {
        let (sender, receiver) = sync_channel(depth);
        let loader = self.clone();
        let thread = std::thread::spawn(move || {
            let mut number = from;
            while sender.send(loader.batch(number)).is_ok() {
                number += 1;
            }
        });
        Prefetch {
            receiver: Some(receiver),
            thread: Some(thread),
        }
    }
}

/// Batches from a thread, without end. Dropping it stops the thread.
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for Prefetch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The thread ends when nobody receives any more.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has already ended the iterator.
            let _ = thread.join();
        }
    }
}

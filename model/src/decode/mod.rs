//! A batch of sequences, token by token: prompts through the batched forward pass, then one token a row at a time, or a
//! few of a single row. Rows come and go. On the CPU a step is [`step::FusedStep`]; on other devices it goes through tensors.

mod attention;
mod cache;
mod products;
mod prompts;
mod step;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;

use crate::batch::TokenBatch;
use crate::decoder::{CachedHistory, Decoder};
use crate::kv_cache::KvCache;
use prompts::{PromptStates, groups, values};
use step::FusedStep;

/// More new tokens of a row than this go through tensors: they unpack each matrix once.
const FEW_TOKENS: usize = 64;

/// Sequences that are being continued, and the logits of what comes next in each.
pub struct Continuation<'a> {
    decoder: &'a Decoder,
    state: State,
    /// What all prompts begin with, read once.
    shared: Option<KvCache>,
    /// Tokens behind each prompt that there is room for.
    new: usize,
    /// `[rows, vocabulary]`.
    logits: Vec<f32>,
}

enum State {
    Fused(Box<FusedStep>),
    /// Rows of equal cached length: the shorter ones are padded in front.
    Tensors(KvCache, CachedHistory),
}

impl<'a> Continuation<'a> {
    /// Reads the prompts, none of them empty, and makes room for up to `new` tokens behind each.
    pub fn new(decoder: &'a Decoder, prompts: &[Vec<u32>], new: usize) -> Self {
        let mut continuation = Self::in_tensors(decoder, &[]);
        if let Some(step) = FusedStep::new(decoder) {
            continuation.state = State::Fused(Box::new(step));
        }
        continuation.new = new;
        continuation.add_rows(prompts);
        continuation
    }

    /// `new` that stays with tensors: the way of other devices, and what the fused step is compared with.
    pub(crate) fn in_tensors(decoder: &'a Decoder, prompts: &[Vec<u32>]) -> Self {
        let history = CachedHistory {
            padding: Vec::new(),
        };
        let mut continuation = Self {
            decoder,
            state: State::Tensors(KvCache::new(decoder.blocks.len()), history),
            shared: None,
            new: 0,
            logits: Vec::new(),
        };
        continuation.add_rows(prompts);
        continuation
    }

    /// Reads what all prompts that are added from now on begin with; each of them goes on behind it.
    pub fn share(&mut self, start: &[u32]) {
        self.shared = (!start.is_empty()).then(|| {
            let mut cache = KvCache::new(self.decoder.blocks.len());
            let history = CachedHistory { padding: vec![0] };
            let batch = TokenBatch::single(start);
            self.decoder.hidden_cached(&batch, &history, &mut cache);
            cache
        });
    }

    /// Reads more prompts, none of them empty: a row each, behind those that there are.
    pub fn add_rows(&mut self, prompts: &[Vec<u32>]) {
        let shared = self.shared.as_ref().map_or(0, |cache| cache.length);
        for group in groups(prompts, shared) {
            let mut read = match &self.shared {
                None => PromptStates::read(self.decoder, group),
                Some(start) => PromptStates::read_behind(self.decoder, start, group),
            };
            self.logits.append(&mut read.logits);
            match &mut self.state {
                State::Fused(step) => step.add_rows(&read, self.new),
                State::Tensors(cache, history) => {
                    let lengths = read.ranges.iter().map(Range::len);
                    let longest = lengths.clone().max().unwrap_or(0).max(cache.length);
                    history
                        .padding
                        .iter_mut()
                        .for_each(|padding| *padding += longest - cache.length);
                    history
                        .padding
                        .extend(lengths.map(|length| longest - length));
                    cache.add_rows(&read.cache, &read.ranges, longest);
                }
            }
        }
    }

    /// Logits `[rows, vocabulary]` of the next token in each row; behind [`Self::extend`] `[wanted, vocabulary]`.
    pub fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks(self.decoder.config.vocab_size)
    }

    /// Goes on with these rows alone.
    pub fn keep_rows(&mut self, kept: &[usize]) {
        let vocabulary = self.decoder.config.vocab_size;
        let logits = kept
            .iter()
            .map(|row| &self.logits[row * vocabulary..][..vocabulary]);
        self.logits = logits.collect::<Vec<_>>().concat();
        match &mut self.state {
            State::Fused(step) => step.keep_rows(kept),
            State::Tensors(cache, history) => {
                history.padding = kept.iter().map(|&row| history.padding[row]).collect();
                // Padding that every row has is none.
                let common = history
                    .padding
                    .iter()
                    .min()
                    .copied()
                    .unwrap_or(cache.length);
                history
                    .padding
                    .iter_mut()
                    .for_each(|padding| *padding -= common);
                cache.select_rows(kept, common);
            }
        }
    }

    /// Adds one token to each row; there is a row at least.
    pub fn advance(&mut self, ids: &[u32]) {
        match &mut self.state {
            State::Fused(step) => step.advance(ids, 1, &mut self.logits),
            State::Tensors(cache, history) => {
                let positions = history.padding.iter().map(|p| (cache.length - p) as u32);
                let batch = TokenBatch {
                    rows: ids.len(),
                    length: 1,
                    ids: ids.to_vec(),
                    positions: positions.collect(),
                    segments: vec![1; ids.len()],
                };
                let hidden = self.decoder.hidden_cached(&batch, history, cache);
                self.logits = values(self.decoder.logits(&hidden));
            }
        }
    }

    /// Adds `ids` to the only row; the logits are those behind the last `wanted` of them.
    pub fn extend(&mut self, ids: &[u32], wanted: usize) {
        match &mut self.state {
            State::Fused(step) if ids.len() <= FEW_TOKENS => {
                step.advance(ids, wanted, &mut self.logits);
            }
            State::Fused(step) => {
                let mut cache = step.to_tensors(0, &self.decoder.device());
                let logits = extend_in_tensors(self.decoder, &mut cache, ids, wanted);
                let read = PromptStates {
                    ranges: std::iter::once(0..cache.length).collect(),
                    cache,
                    logits: Vec::new(),
                };
                step.keep_rows(&[]);
                step.add_rows(&read, self.new);
                self.logits = logits;
            }
            State::Tensors(cache, _) => {
                self.logits = extend_in_tensors(self.decoder, cache, ids, wanted);
            }
        }
    }

    /// Forgets all but the first `length` positions of the only row. The logits stay as they are.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.state {
            State::Fused(step) => step.truncate(length),
            State::Tensors(cache, _) => cache.truncate(length),
        }
    }
}

/// Logits `[wanted, vocabulary]` behind `ids`, which follow the one row of a cache.
fn extend_in_tensors(
    decoder: &Decoder,
    cache: &mut KvCache,
    ids: &[u32],
    wanted: usize,
) -> Vec<f32> {
    let length = cache.length as u32;
    let batch = TokenBatch {
        positions: (length..length + ids.len() as u32).collect(),
        ..TokenBatch::single(ids)
    };
    let hidden = decoder.hidden_cached(&batch, &CachedHistory { padding: vec![0] }, cache);
    let [tokens, width] = hidden.dims();
    values(decoder.logits(&hidden.slice([tokens - wanted..tokens, 0..width])))
}

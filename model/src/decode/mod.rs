//! A batch of sequences, token by token: the prompt through the batched forward pass, then one token a row at a time, or
//! a few. On the CPU a step is [`step::FusedStep`]; on other devices it goes through tensors.

mod attention;
mod cache;
mod products;
mod step;
#[cfg(test)]
mod tests;
mod weights;

use burn::tensor::{DType, Tensor};

use crate::batch::TokenBatch;
use crate::decoder::{CachedHistory, Decoder};
use crate::kv_cache::KvCache;
use step::FusedStep;

/// More new tokens a row than this go through tensors: they decode each matrix once.
const FEW_TOKENS: usize = 64;

/// Sequences that are being continued, and the logits of what comes next in each.
pub struct Continuation<'a> {
    decoder: &'a Decoder,
    state: State,
    rows: usize,
    /// `[rows, wanted, vocabulary]`.
    logits: Vec<f32>,
}

enum State {
    Fused(Box<FusedStep>),
    Tensors(KvCache, CachedHistory),
}

impl<'a> Continuation<'a> {
    /// Reads the prompts, none of them empty, and makes room for up to `new` tokens behind each.
    pub fn new(decoder: &'a Decoder, prompts: &[Vec<u32>], new: usize) -> Self {
        let mut continuation = Self::in_tensors(decoder, prompts);
        continuation.fuse(new);
        continuation
    }

    /// `new` that stays with tensors: the way of other devices, and what the fused step is compared with.
    pub(crate) fn in_tensors(decoder: &'a Decoder, prompts: &[Vec<u32>]) -> Self {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut continuation = Self {
            decoder,
            state: State::Tensors(
                KvCache::new(decoder.blocks.len()),
                CachedHistory {
                    padding: prompts.iter().map(|p| longest - p.len()).collect(),
                },
            ),
            rows: prompts.len(),
            logits: Vec::new(),
        };
        continuation.forward(&prompt_batch(prompts, longest), 1);
        continuation
    }

    /// From tensors to the fused step, where the decoder has one, with room for up to `new` tokens a row.
    fn fuse(&mut self, new: usize) {
        let nothing = State::Tensors(KvCache::default(), CachedHistory { padding: vec![] });
        self.state = match std::mem::replace(&mut self.state, nothing) {
            State::Tensors(cache, history) => {
                match FusedStep::new(self.decoder, cache, &history.padding, new) {
                    Ok(step) => State::Fused(Box::new(step)),
                    Err(cache) => State::Tensors(cache, history),
                }
            }
            fused => fused,
        };
    }

    /// Logits of the next token in each row; behind [`Self::extend`] `[rows, wanted]` of them.
    pub fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks(self.decoder.config.vocab_size)
    }

    /// Goes on with these rows alone.
    pub fn keep_rows(&mut self, kept: &[usize]) {
        self.rows = kept.len();
        match &mut self.state {
            State::Fused(step) => step.keep_rows(kept),
            State::Tensors(cache, history) => {
                cache.select_rows(kept);
                history.padding = kept.iter().map(|&row| history.padding[row]).collect();
            }
        }
    }

    /// Adds one token to each row.
    pub fn advance(&mut self, ids: &[u32]) {
        self.extend(ids, 1);
    }

    /// Adds `ids` `[rows, new]`; the logits are those behind the last `wanted` of them in each row.
    pub fn extend(&mut self, ids: &[u32], wanted: usize) {
        let new = ids.len() / self.rows;
        if let State::Fused(step) = &mut self.state {
            if new <= FEW_TOKENS {
                return step.advance(ids, wanted, &mut self.logits);
            }
            let (cache, padding) = step.to_tensors(&self.decoder.device());
            self.state = State::Tensors(cache, CachedHistory { padding });
            self.extend(ids, wanted);
            return self.fuse(new);
        }
        let length = self.length();
        if let State::Tensors(_, history) = &self.state {
            let own = |padding| (length..length + new).map(move |at| (at - padding) as u32);
            let batch = TokenBatch {
                rows: self.rows,
                length: new,
                ids: ids.to_vec(),
                positions: history.padding.iter().flat_map(own).collect(),
                segments: vec![1; ids.len()],
            };
            self.forward(&batch, wanted);
        }
    }

    /// Cached positions a row.
    pub fn length(&self) -> usize {
        match &self.state {
            State::Fused(step) => step.length(),
            State::Tensors(cache, _) => cache.length,
        }
    }

    /// Forgets all but the first `length` positions of each row. The logits stay those of the step before.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.state {
            State::Fused(step) => step.truncate(length),
            State::Tensors(cache, _) => cache.truncate(length),
        }
    }

    fn forward(&mut self, batch: &TokenBatch, wanted: usize) {
        if let State::Tensors(cache, history) = &mut self.state {
            let hidden = self.decoder.hidden_cached(batch, history, cache);
            let logits = self.decoder.logits(&last_of_rows(hidden, batch, wanted));
            let values = logits.cast(DType::F32).into_data().try_to_vec();
            self.logits = values.expect("logits were cast to f32");
        }
    }
}

/// Prompts of different lengths are padded in front.
fn prompt_batch(prompts: &[Vec<u32>], longest: usize) -> TokenBatch {
    let (mut ids, mut positions, mut segments) = (Vec::new(), Vec::new(), Vec::new());
    for prompt in prompts {
        let padding = longest - prompt.len();
        ids.extend(std::iter::repeat_n(prompt[0], padding).chain(prompt.iter().copied()));
        positions.extend(std::iter::repeat_n(0, padding).chain(0..prompt.len() as u32));
        segments.extend((0..longest).map(|i| u32::from(i >= padding)));
    }
    TokenBatch {
        rows: prompts.len(),
        length: longest,
        ids,
        positions,
        segments,
    }
}

fn last_of_rows(hidden: Tensor<2>, batch: &TokenBatch, wanted: usize) -> Tensor<2> {
    let width = hidden.dims()[1];
    hidden
        .reshape([batch.rows, batch.length, width])
        .slice([
            0..batch.rows,
            batch.length - wanted..batch.length,
            0..width,
        ])
        .reshape([batch.rows * wanted, width])
}

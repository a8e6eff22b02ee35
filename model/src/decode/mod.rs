//! A batch of sequences, token by token: the prompt through the batched forward pass, then one token a row at a time.
//! On the CPU a step is [`step::FusedStep`]; on other devices it goes through tensors.

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

/// Sequences that are being continued, and the logits of what comes next in each.
pub struct Continuation<'a> {
    decoder: &'a Decoder,
    state: State,
    /// `[rows, vocabulary]`.
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
        if let State::Tensors(cache, history) = continuation.state {
            continuation.state = match FusedStep::new(decoder, cache, &history.padding, new) {
                Ok(step) => State::Fused(Box::new(step)),
                Err(cache) => State::Tensors(cache, history),
            };
        }
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
            logits: Vec::new(),
        };
        continuation.forward(&prompt_batch(prompts, longest));
        continuation
    }

    /// Logits `[rows, vocabulary]` of the next token in each row.
    pub fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks(self.decoder.config.vocab_size)
    }

    /// Goes on with these rows alone.
    pub fn keep_rows(&mut self, kept: &[usize]) {
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
        match &mut self.state {
            State::Fused(step) => step.advance(ids, &mut self.logits),
            State::Tensors(cache, history) => {
                let positions = history.padding.iter().map(|p| (cache.length - p) as u32);
                let batch = TokenBatch {
                    rows: ids.len(),
                    length: 1,
                    ids: ids.to_vec(),
                    positions: positions.collect(),
                    segments: vec![1; ids.len()],
                };
                self.forward(&batch);
            }
        }
    }

    fn forward(&mut self, batch: &TokenBatch) {
        if let State::Tensors(cache, history) = &mut self.state {
            let hidden = self.decoder.hidden_cached(batch, history, cache);
            let logits = self.decoder.logits(&last_of_rows(hidden, batch));
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

fn last_of_rows(hidden: Tensor<2>, batch: &TokenBatch) -> Tensor<2> {
    let width = hidden.dims()[1];
    hidden
        .reshape([batch.rows, batch.length, width])
        .slice([0..batch.rows, batch.length - 1..batch.length, 0..width])
        .reshape([batch.rows, width])
}

//! Batched generation with a key/value cache.

use burn::tensor::{DType, Tensor};

use super::sampling::{SamplingConfig, next_token};
use crate::batch::TokenBatch;
use crate::decoder::{CachedHistory, Decoder};
use crate::kv_cache::KvCache;

/// When generation of a sequence ends, and how its tokens are drawn.
#[derive(Debug, Clone)]
pub struct GenerationConfig {
    pub sampling: SamplingConfig,
    pub max_new_tokens: usize,
    /// Any of these ends a sequence; it is part of the output.
    pub eos_token_ids: Vec<u32>,
}

/// Asked for a uniform number in [0, 1) by (prompt, new token index): no hidden state.
pub type Uniform<'a> = dyn Fn(usize, usize) -> f64 + 'a;

/// What the caller answers to each new token: (prompt, ids generated so far).
pub type Continue<'a> = dyn FnMut(usize, &[u32]) -> bool + 'a;

/// Continues each prompt; returns the new ids only. Prompts of different lengths are padded in front.
/// `keep_going` sees every new token and may end its sequence (stop strings, streaming).
///
/// # Panics
/// When a prompt is empty: there is nothing to continue.
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    uniform: &Uniform,
    keep_going: &mut Continue,
) -> Vec<Vec<u32>> {
    assert!(prompts.iter().all(|p| !p.is_empty()), "an empty prompt");
    let mut outputs = vec![Vec::new(); prompts.len()];
    if prompts.is_empty() || config.max_new_tokens == 0 {
        return outputs;
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut cache = KvCache::new(decoder.blocks.len());
    let mut history = CachedHistory {
        padding: prompts.iter().map(|p| longest - p.len()).collect(),
    };
    let mut active: Vec<usize> = (0..prompts.len()).collect();
    let mut batch = prefill_batch(prompts, longest);
    for new in 0..config.max_new_tokens {
        let hidden = decoder.hidden_cached(&batch, &history, &mut cache);
        let logits = last_logits(decoder, hidden, &batch);
        let mut kept = Vec::new();
        for (row, &prompt) in active.iter().enumerate() {
            let seen: Vec<u32> = [&prompts[prompt][..], &outputs[prompt]].concat();
            let id = next_token(&config.sampling, &logits[row], &seen, uniform(prompt, new));
            outputs[prompt].push(id);
            let ended = config.eos_token_ids.contains(&id);
            if keep_going(prompt, &outputs[prompt]) && !ended {
                kept.push(row);
            }
        }
        if kept.is_empty() {
            break;
        }
        if kept.len() < active.len() {
            cache.select_rows(&kept);
            active = kept.iter().map(|&row| active[row]).collect();
            history.padding = kept.iter().map(|&row| history.padding[row]).collect();
        }
        batch = decode_batch(&active, &outputs, &history, cache.length);
    }
    outputs
}

fn prefill_batch(prompts: &[Vec<u32>], longest: usize) -> TokenBatch {
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

fn decode_batch(
    active: &[usize],
    outputs: &[Vec<u32>],
    history: &CachedHistory,
    cached: usize,
) -> TokenBatch {
    TokenBatch {
        rows: active.len(),
        length: 1,
        ids: active
            .iter()
            .filter_map(|&prompt| outputs[prompt].last().copied())
            .collect(),
        positions: history
            .padding
            .iter()
            .map(|&p| (cached - p) as u32)
            .collect(),
        segments: vec![1; active.len()],
    }
}

/// Logits of each row's last position.
fn last_logits(decoder: &Decoder, hidden: Tensor<2>, batch: &TokenBatch) -> Vec<Vec<f32>> {
    let width = hidden.dims()[1];
    let last = hidden
        .reshape([batch.rows, batch.length, width])
        .slice([0..batch.rows, batch.length - 1..batch.length, 0..width])
        .reshape([batch.rows, width]);
    let logits = decoder.logits(&last).cast(DType::F32);
    let vocabulary = logits.dims()[1];
    let values: Vec<f32> = logits
        .into_data()
        .try_to_vec()
        .expect("logits were cast to f32");
    values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
}

//! Batched generation with a key/value cache.

use super::sampling::{SamplingConfig, next_token};
use crate::decode::Continuation;
use crate::decoder::Decoder;

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
    if prompts.is_empty() || config.max_new_tokens == 0 {
        return vec![Vec::new(); prompts.len()];
    }
    let mut continuation = Continuation::new(decoder, prompts, config.max_new_tokens);
    let mut seen: Vec<Vec<u32>> = prompts.to_vec();
    let mut active: Vec<usize> = (0..prompts.len()).collect();
    for new in 0..config.max_new_tokens {
        let mut kept = Vec::new();
        for ((row, &prompt), logits) in active.iter().enumerate().zip(continuation.logits()) {
            let draw = uniform(prompt, new);
            let id = next_token(&config.sampling, logits, &seen[prompt], draw);
            seen[prompt].push(id);
            let output = &seen[prompt][prompts[prompt].len()..];
            let ended = config.eos_token_ids.contains(&id);
            if keep_going(prompt, output) && !ended {
                kept.push(row);
            }
        }
        if kept.is_empty() || new + 1 == config.max_new_tokens {
            break;
        }
        if kept.len() < active.len() {
            continuation.keep_rows(&kept);
            active = kept.iter().map(|&row| active[row]).collect();
        }
        let last = active.iter().filter_map(|&prompt| seen[prompt].last());
        continuation.advance(&last.copied().collect::<Vec<u32>>());
    }
    let outputs = seen.into_iter().zip(prompts);
    outputs
        .map(|(mut seen, prompt)| seen.split_off(prompt.len()))
        .collect()
}

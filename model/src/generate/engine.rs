//! Batched generation with a key/value cache. When a sequence ends, the next prompt takes its row.

use super::sampling::{SamplingConfig, next_token};
use crate::decode::Continuation;
use crate::decoder::Decoder;

/// Sequences that are under way together unless somebody asks for another number.
pub const ROWS_AT_A_TIME: usize = 16;

/// When generation of a sequence ends, and how its tokens are drawn.
#[derive(Debug, Clone)]
pub struct GenerationConfig {
    pub sampling: SamplingConfig,
    pub max_new_tokens: usize,
    /// Any of these ends a sequence; it is part of the output.
    pub eos_token_ids: Vec<u32>,
    /// Only ids below are drawn; rows of the head beyond may be padding.
    pub vocabulary: usize,
    /// Sequences that are under way together.
    pub rows: usize,
    /// First tokens that all prompts share, and go on behind: they are read once. 0 where nothing is shared.
    pub shared: usize,
}

/// Asked for a uniform number in [0, 1) by (prompt, new token index): no hidden state.
pub type Uniform<'a> = dyn Fn(usize, usize) -> f64 + 'a;

/// What the caller answers to each new token: (prompt, ids generated so far).
pub type Continue<'a> = dyn FnMut(usize, &[u32]) -> bool + 'a;

/// Continues each prompt; returns the new ids only. A sequence does not depend on what it is continued together with, but
/// for rounding. `keep_going` sees every new token and may end its sequence (stop strings, streaming).
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
    if config.max_new_tokens == 0 {
        return vec![Vec::new(); prompts.len()];
    }
    let mut continuation = Continuation::new(decoder, &[], config.max_new_tokens);
    if let Some(first) = prompts.first() {
        continuation.share(&first[..config.shared]);
    }
    let mut seen: Vec<Vec<u32>> = prompts.to_vec();
    // The prompt that each row continues, and the first that waits.
    let (mut active, mut next): (Vec<usize>, usize) = (Vec::new(), 0);
    loop {
        // Either rows begin, or all of them go on by a token.
        let free = config.rows.max(1) - active.len();
        let started = next..prompts.len().min(next + free);
        let first = match (started.is_empty(), active.is_empty()) {
            (true, true) => break,
            (true, false) => {
                let last = active.iter().filter_map(|&prompt| seen[prompt].last());
                continuation.advance(&last.copied().collect::<Vec<u32>>());
                0
            }
            (false, _) => {
                continuation.add_rows(&prompts[started.clone()]);
                next = started.end;
                active.extend(started.clone());
                active.len() - started.len()
            }
        };
        let mut kept: Vec<usize> = (0..first).collect();
        for (row, logits) in continuation.logits().enumerate().skip(first) {
            let prompt = active[row];
            let new = seen[prompt].len() - prompts[prompt].len();
            let logits = &logits[..config.vocabulary.min(logits.len())];
            let draw = uniform(prompt, new);
            let id = next_token(&config.sampling, logits, &seen[prompt], draw);
            seen[prompt].push(id);
            let output = &seen[prompt][prompts[prompt].len()..];
            let ended = config.eos_token_ids.contains(&id) || output.len() == config.max_new_tokens;
            if keep_going(prompt, output) && !ended {
                kept.push(row);
            }
        }
        if kept.len() < active.len() {
            continuation.keep_rows(&kept);
            active = kept.iter().map(|&row| active[row]).collect();
        }
    }
    let outputs = seen.into_iter().zip(prompts);
    outputs
        .map(|(mut seen, prompt)| seen.split_off(prompt.len()))
        .collect()
}

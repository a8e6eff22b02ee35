//! How much text an evaluation has a model read, in tokens as far as they can be told without a tokenizer.

use datasets::token_estimate::estimated_tokens;

/// Texts that are read for an evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextSize {
    /// Prompts that are answered, or choices, each behind its prompt.
    pub sequences: u64,
    /// Tokens of all of them.
    pub tokens: f64,
    /// Tokens that a model here reads: the beginning of a group once, and prompts without their choices where a choice is one
    /// letter, which is only scored.
    pub read_here: f64,
    /// Of these, scored ones.
    pub scored_here: f64,
    pub groups: Vec<GroupSize>,
}

/// Texts that begin alike.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GroupSize {
    /// Different ones.
    pub rows: usize,
    /// Tokens that all of them begin with.
    pub shared: f64,
    /// Tokens of the longest.
    pub longest: f64,
}

impl TextSize {
    /// Of prompts that are answered so often each.
    pub fn of_prompts<'a>(prompts: impl Iterator<Item = &'a str> + Clone, times: usize) -> Self {
        let shared = shared_tokens(prompts.clone());
        let lengths: Vec<f64> = prompts.map(estimated_tokens).collect();
        let rows = lengths.len().saturating_mul(times);
        let tokens = lengths.iter().sum::<f64>() * times as f64;
        Self {
            sequences: rows as u64,
            tokens,
            read_here: tokens - shared * rows.saturating_sub(1) as f64,
            scored_here: 0.0,
            groups: vec![GroupSize {
                rows,
                shared,
                longest: lengths.into_iter().fold(0.0, f64::max),
            }],
        }
    }
}

/// Tokens that all texts begin with.
pub(crate) fn shared_tokens<'a>(mut texts: impl Iterator<Item = &'a str>) -> f64 {
    let first = texts.next().unwrap_or_default();
    let bytes = texts.fold(first.len(), |shared, text| {
        let pairs = first.bytes().zip(text.bytes()).take(shared);
        pairs.take_while(|(a, b)| a == b).count()
    });
    let whole = (0..=bytes).rev().find_map(|end| first.get(..end));
    estimated_tokens(whole.unwrap_or_default())
}

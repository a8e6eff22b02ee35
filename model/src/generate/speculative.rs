//! Speculative decoding: a small model drafts, the large one reads the whole draft in one pass and keeps what it might
//! have said itself.
//!
//! Leviathan et al., Fast Inference from Transformers via Speculative Decoding (arXiv 2211.17192); Chen et al.,
//! Accelerating Large Language Model Decoding with Speculative Sampling (arXiv 2302.01318). With p the target's
//! distribution and q the draft's, both after temperature, penalty and cuts, a drafted token x stays with probability
//! min(1, p(x)/q(x)); the first that does not is replaced by a draw from max(0, p − q), normalised. So every token is
//! distributed as p, whatever q is. At temperature 0 both have one token, and what stays is what the target would take.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::engine::GenerationConfig;
use super::sampling::{SamplingConfig, next_log_probs, next_token, pick};
use super::sequence::Sequence;

/// What a random number decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// A token of the target's, or what replaces a drafted one.
    Token,
    /// A drafted token.
    Draft,
    /// Whether a drafted token stays.
    Acceptance,
}

/// Asked for a uniform number in [0, 1) by new token index and purpose: no hidden state. A token that is drafted anew
/// after an earlier one fell asks for the same numbers again; nothing that was kept depends on them.
pub type Draws<'a> = dyn Fn(usize, Draw) -> f64 + 'a;

/// What the caller answers to the ids generated so far.
pub type Continue<'a> = dyn FnMut(&[u32]) -> bool + 'a;

/// A small model that drafts for another.
pub struct Drafter<'a> {
    sequence: Sequence<'a>,
    /// Drafted in a round.
    tokens: usize,
    /// Leading columns of both heads that are the same tokens; others are never drafted.
    shared: usize,
}

/// How much of the drafts stayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Passes of the target over a draft.
    pub rounds: u64,
    pub drafted: u64,
    /// Drafted tokens that stayed.
    pub accepted: u64,
}

/// What a generation leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continued {
    /// The new ids only.
    pub ids: Vec<u32>,
    /// Tokens of the prompt whose keys and values were there already.
    pub reused: usize,
    pub acceptance: Acceptance,
}

impl Acceptance {
    /// Mean number of accepted tokens a round, the one that the target adds not counted.
    pub fn length(&self) -> f64 {
        self.accepted as f64 / self.rounds.max(1) as f64
    }

    /// Share of the drafted tokens that stayed.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.drafted.max(1) as f64
    }
}

impl AddAssign for Acceptance {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
    }
}

/// Continues `prompt`, with or without drafts. Of what `target` and `drafter` have read before, the common beginning
/// is not computed again. `keep_going` sees every new token and may end the text.
///
/// # Panics
/// When the prompt is empty: there is nothing to continue.
pub fn continue_sequence(
    target: &mut Sequence,
    mut drafter: Option<&mut Drafter>,
    prompt: &[u32],
    config: &GenerationConfig,
    draws: &Draws,
    keep_going: &mut Continue,
) -> Continued {
    assert!(!prompt.is_empty(), "an empty prompt");
    let mut seen = prompt.to_vec();
    let mut acceptance = Acceptance::default();
    let mut reused = None;
    'rounds: while seen.len() - prompt.len() < config.max_new_tokens {
        let new = seen.len() - prompt.len();
        // The first token is the target's, so that the prompt is read as it is without a draft.
        let drafts = match &mut drafter {
            Some(drafter) if new > 0 => {
                let most = drafter.tokens.min(config.max_new_tokens - new - 1);
                drafter.draft(&seen, new..new + most, config, draws)
            }
            _ => Vec::new(),
        };
        let drafted = drafts.iter().map(|draft| draft.id);
        let text: Vec<u32> = seen.iter().copied().chain(drafted).collect();
        let before = target.read(&text, drafts.len() + 1);
        reused.get_or_insert(before);
        acceptance.rounds += u64::from(!drafts.is_empty());
        acceptance.drafted += drafts.len() as u64;
        for (at, logits) in target.logits().enumerate() {
            let logits = &logits[..config.vocabulary.min(logits.len())];
            let draw = |draw| draws(new + at, draw);
            let (id, stays) = match drafts.get(at) {
                Some(draft) => draft.judged(&config.sampling, logits, &seen, &draw),
                None => {
                    let uniform = draw(Draw::Token);
                    (next_token(&config.sampling, logits, &seen, uniform), false)
                }
            };
            acceptance.accepted += u64::from(stays);
            seen.push(id);
            let ended = config.eos_token_ids.contains(&id);
            if !keep_going(&seen[prompt.len()..]) || ended {
                break 'rounds;
            }
            if !stays {
                break;
            }
        }
    }
    Continued {
        ids: seen.split_off(prompt.len()),
        reused: reused.unwrap_or(0),
        acceptance,
    }
}

/// A drafted token and the log-probabilities that it was drawn from.
struct Draft {
    id: u32,
    log_probs: Vec<f32>,
}

impl<'a> Drafter<'a> {
    pub fn new(sequence: Sequence<'a>, tokens: usize, shared: usize) -> Self {
        Self {
            sequence,
            tokens,
            shared,
        }
    }

    pub fn forget(&mut self) {
        self.sequence.forget();
    }

    /// Drafts the new tokens of these indices, or up to one that ends a text.
    fn draft(
        &mut self,
        seen: &[u32],
        indices: std::ops::Range<usize>,
        config: &GenerationConfig,
        draws: &Draws,
    ) -> Vec<Draft> {
        let rows = self.sequence.decoder().config.vocab_size;
        let mut seen = seen.to_vec();
        let mut drafts = Vec::with_capacity(indices.len());
        for index in indices {
            // A padding row of the target's that this model has not: any other token leaves the result exact.
            let readable: Vec<u32> = seen
                .iter()
                .map(|&id| if (id as usize) < rows { id } else { 0 })
                .collect();
            self.sequence.read(&readable, 1);
            let logits = self.sequence.logits().next().unwrap_or_default();
            let log_probs = next_log_probs(&config.sampling, &logits[..self.shared], &seen);
            let probabilities = log_probs.iter().map(|x| f64::from(*x).exp());
            let id = pick(probabilities, draws(index, Draw::Draft));
            drafts.push(Draft { id, log_probs });
            seen.push(id);
            if config.eos_token_ids.contains(&id) {
                break;
            }
        }
        drafts
    }
}

impl Draft {
    /// The token that comes here, given the target's logits, and whether it is the drafted one.
    fn judged(
        &self,
        sampling: &SamplingConfig,
        logits: &[f32],
        seen: &[u32],
        draw: &dyn Fn(Draw) -> f64,
    ) -> (u32, bool) {
        let target = next_log_probs(sampling, logits, seen);
        let exp = |log_prob: f32| f64::from(log_prob).exp();
        let drafted = |id: usize| self.log_probs.get(id).map_or(0.0, |x| exp(*x));
        let id = self.id as usize;
        if draw(Draw::Acceptance) * drafted(id) < exp(target[id]) {
            return (self.id, true);
        }
        let left = || {
            let ids = target.iter().enumerate();
            ids.map(|(id, log_prob)| (exp(*log_prob) - drafted(id)).max(0.0))
        };
        let total: f64 = left().sum();
        let uniform = draw(Draw::Token);
        match total > 0.0 {
            true => (pick(left(), uniform * total), false),
            // p = q but for rounding.
            false => (pick(target.iter().map(|x| exp(*x)), uniform), false),
        }
    }
}

#[cfg(test)]
mod tests;

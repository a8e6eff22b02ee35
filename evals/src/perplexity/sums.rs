//! From the log-probabilities of tokens to a perplexity.

use serde::{Deserialize, Deserializer, Serialize};

/// A model's perplexity. Logarithms are natural but for `bits_per_byte`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens that were scored.
    pub tokens: u64,
    /// Bytes of text that these tokens stand for.
    pub bytes: u64,
    /// Sum of −log p over the tokens, in nats. JSON has no infinity: it is written, and read, as null.
    #[serde(deserialize_with = "or_infinite")]
    pub nll_sum: f64,
    /// Mean of −log p, in nats per token.
    #[serde(deserialize_with = "or_infinite")]
    pub nll: f64,
    /// exp(`nll`).
    #[serde(deserialize_with = "or_infinite")]
    pub perplexity: f64,
    /// `nll_sum` / (ln 2 · `bytes`): comparable between models of different tokenizers.
    #[serde(deserialize_with = "or_infinite")]
    pub bits_per_byte: f64,
    /// Of `nll`, as if tokens were drawn independently: s / √tokens.
    #[serde(deserialize_with = "or_infinite")]
    pub standard_error: f64,
}

pub(crate) fn or_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

/// Running sums; the variance by Welford's recurrence.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) tokens: u64,
    bytes: u64,
    nll: f64,
    mean: f64,
    squares: f64,
}

impl Sums {
    pub(super) fn add(&mut self, bytes: usize, nll: f64) {
        self.tokens += 1;
        self.bytes += bytes as u64;
        self.nll += nll;
        let from_old = nll - self.mean;
        self.mean += from_old / self.tokens as f64;
        self.squares += from_old * (nll - self.mean);
    }

    pub(super) fn finish(&self) -> Perplexity {
        let tokens = self.tokens as f64;
        let nll = self.nll / tokens;
        let variance = self.squares / (tokens - 1.0).max(1.0);
        Perplexity {
            tokens: self.tokens,
            bytes: self.bytes,
            nll_sum: self.nll,
            nll,
            perplexity: nll.exp(),
            bits_per_byte: self.nll / std::f64::consts::LN_2 / self.bytes.max(1) as f64,
            standard_error: (variance / tokens).sqrt(),
        }
    }
}

//! What is kept of a teacher's distribution.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ShardError;

/// How much of each position's distribution is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// The k most probable tokens, and the probability of all others together. Biased: below the k-th token the student
    /// learns only how much there is.
    TopK(TopK),
    /// Tokens drawn from the distribution, with how often each came (arXiv 2503.16870). Unbiased for all that is linear in
    /// the teacher's probabilities: the gradient of forward KL.
    Sampled(Sampled),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TopK {
    /// Tokens that are kept of each position, 1 to 1048576.
    #[schemars(range(min = 1, max = 1048576))]
    pub k: u32,
    /// Bits of a probability, 8 to 16.
    #[schemars(range(min = 8, max = 16))]
    pub bits: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampled {
    /// Draws of a position, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub samples: u32,
}

impl Default for TopK {
    fn default() -> Self {
        Self { k: 64, bits: 12 }
    }
}

impl Default for Sampled {
    fn default() -> Self {
        Self { samples: 50 }
    }
}

impl Default for Encoding {
    fn default() -> Self {
        Self::TopK(TopK::default())
    }
}

/// Most draws of a position.
const MOST_SAMPLES: u32 = 65535;
/// Most tokens of a list: more than any vocabulary.
const MOST_TOKENS: u32 = 1 << 20;
/// Tokens that [`Sampled`] draws are about so many different ones.
const DISTINCT: u32 = 12;

impl Encoding {
    /// # Errors
    /// [`ShardError::Setting`] with the number that is out of range.
    pub fn check(&self) -> Result<(), ShardError> {
        let (key, found, holds, expected) = match self {
            Self::TopK(top) if !(1..=MOST_TOKENS).contains(&top.k) => {
                ("k", top.k, false, "it must be between 1 and 1048576")
            }
            Self::TopK(top) => (
                "bits",
                top.bits,
                (8..=16).contains(&top.bits),
                "it must be between 8 and 16",
            ),
            Self::Sampled(sampled) => (
                "samples",
                sampled.samples,
                (1..=MOST_SAMPLES).contains(&sampled.samples),
                "it must be between 1 and 65535",
            ),
        };
        match holds {
            true => Ok(()),
            false => Err(ShardError::Setting {
                key,
                found: found.to_string(),
                expected: expected.into(),
            }),
        }
    }

    /// Tokens of a list of this vocabulary.
    pub(super) fn listed(&self, vocabulary: usize) -> usize {
        match self {
            Self::TopK(top) => vocabulary.min(top.k as usize),
            Self::Sampled(_) => vocabulary.min(DISTINCT as usize),
        }
    }

    /// The order of the exponential-Golomb code of the distances between ids. Frequent tokens have small ids, so
    /// distances are far from even; of orders tried on a list of 32 and of 64 of 49152 tokens this is the shortest.
    pub(super) fn golomb_order(&self, vocabulary: usize) -> u32 {
        let distance = vocabulary / self.listed(vocabulary).max(1);
        distance.max(1).ilog2().saturating_sub(4)
    }
}

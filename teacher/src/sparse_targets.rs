//! What a teacher says of some positions, as a few tokens with probabilities.

/// A distribution a position: the listed tokens, and perhaps a tail.
///
/// Probabilities and tail of a position add up to 1. Without a tail the tokens that are not listed have a probability of 0.
/// A position with neither is one that nothing is known of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SparseTargets {
    /// Position i has entries `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<usize>,
    /// Rising within a position, each below `vocabulary`.
    pub ids: Vec<u32>,
    pub probabilities: Vec<f32>,
    /// The probability of all tokens that are not listed, taken as one; 0 where there is none.
    pub tails: Vec<f32>,
    /// Nats; what is subtracted from a cross-entropy to make it a KL divergence. Of top-k targets it is the entropy of the
    /// list with its tail, of sampled ones that of the teacher's whole distribution.
    pub entropies: Vec<f64>,
    /// Leading columns that are tokens of the teacher; the tail belongs to these.
    pub vocabulary: usize,
}

impl SparseTargets {
    pub fn new(vocabulary: usize) -> Self {
        Self {
            offsets: vec![0],
            vocabulary,
            ..Self::default()
        }
    }

    /// The number of positions.
    pub fn len(&self) -> usize {
        self.tails.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tails.is_empty()
    }

    /// Ids and probabilities of a position (below [`Self::len`]).
    pub fn entries(&self, position: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[position]..self.offsets[position + 1];
        (&self.ids[range.clone()], &self.probabilities[range])
    }

    /// Whether the teacher has said anything of a position (below [`Self::len`]).
    pub fn is_known(&self, position: usize) -> bool {
        self.offsets[position] < self.offsets[position + 1] || self.tails[position] > 0.0
    }

    /// Adds a position whose entries stand at the end of `ids` and `probabilities` already.
    pub fn close(&mut self, tail: f32, entropy: f64) {
        self.offsets.push(self.ids.len());
        self.tails.push(tail);
        self.entropies.push(entropy);
    }

    /// −Σ p ln p of the entries from `start` on and their tail.
    pub fn bucketed_entropy(&self, start: usize, tail: f32) -> f64 {
        let term = |p: f32| match p > 0.0 {
            true => -f64::from(p) * f64::from(p).ln(),
            false => 0.0,
        };
        self.probabilities[start..]
            .iter()
            .map(|p| term(*p))
            .sum::<f64>()
            + term(tail)
    }
}

//! Several data sets, mixed by weight.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::{CachedSample, TokenCache};
use crate::config::DataConfig;
use crate::error::DataError;
use crate::packing::SampleShape;
use crate::random::Random;

/// Data sets with weights. A weight is the share of *samples*, relative to the other weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture<S> {
    pub parts: Vec<MixturePart<S>>,
}

/// One data set of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixturePart<S> {
    pub data: DataConfig<S>,
    pub weight: f64,
}

/// Tokenised data sets with weights; samples are numbered through all of them.
#[derive(Debug)]
pub struct Corpus {
    parts: Vec<Arc<TokenCache>>,
    /// Shares that add up to 1.
    shares: Vec<f64>,
    /// The number of the first sample of each part, and the number of samples at the end.
    starts: Vec<usize>,
}

impl From<TokenCache> for Corpus {
    fn from(cache: TokenCache) -> Self {
        let end = cache.len();
        Self {
            parts: vec![Arc::new(cache)],
            shares: vec![1.0],
            starts: vec![0, end],
        }
    }
}

impl Corpus {
    /// Mixes caches by weight. Weights are positive numbers; each cache holds samples.
    pub fn new(parts: Vec<(Arc<TokenCache>, f64)>) -> Result<Self, DataError> {
        let setting = |found: String, expected: &str| DataError::Setting {
            key: "data.weight",
            found,
            expected: expected.into(),
        };
        if parts.is_empty() {
            return Err(setting("no data set".into(), "at least one"));
        }
        let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
        let mut corpus = Self {
            parts: Vec::new(),
            shares: Vec::new(),
            starts: vec![0],
        };
        let mut end = 0;
        for (cache, weight) in parts {
            if !(weight.is_finite() && weight > 0.0 && total.is_finite()) {
                return Err(setting(weight.to_string(), "a positive number"));
            }
            end += cache.len();
            corpus.parts.push(cache);
            corpus.shares.push(weight / total);
            corpus.starts.push(end);
        }
        if u32::try_from(end).is_err() {
            return Err(setting(
                format!("{end} samples"),
                "fewer than 4,294,967,296",
            ));
        }
        Ok(corpus)
    }

    /// Samples of all parts.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokenised data sets.
    pub fn caches(&self) -> &[Arc<TokenCache>] {
        &self.parts
    }

    /// The number of data sets.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Sample `number` (below [`Self::len`]).
    pub fn sample(&self, number: usize) -> CachedSample<'_> {
        let part = self.part_of(number);
        self.parts[part].sample(number - self.starts[part])
    }

    fn part_of(&self, number: usize) -> usize {
        self.starts.partition_point(|start| *start <= number) - 1
    }

    /// What packing needs to know of each sample.
    pub fn shapes(&self) -> Vec<SampleShape> {
        self.parts.iter().flat_map(|part| part.shapes()).collect()
    }

    /// Groups sample numbers by the part that they belong to.
    pub(crate) fn by_part(&self, numbers: impl Iterator<Item = u32>) -> Vec<Vec<u32>> {
        let mut grouped = vec![Vec::new(); self.parts.len()];
        for number in numbers {
            grouped[self.part_of(number as usize)].push(number);
        }
        grouped
    }

    pub(crate) fn shares(&self) -> &[f64] {
        &self.shares
    }
}

/// The samples of one epoch, in order: as many as there are, of each part its share.
///
/// Each part is walked through again and again, every time in another order, and each epoch goes on where the one
/// before stopped: all samples of a part are seen equally often, whatever its weight. With one part an epoch is a
/// permutation of its samples.
pub fn mixed_order(
    parts: &[Vec<u32>],
    shares: &[f64],
    seed: u64,
    stage: &str,
    epoch: u64,
) -> Vec<u32> {
    let total: usize = parts.iter().map(Vec::len).sum();
    let mut order = Vec::with_capacity(total);
    for (index, (samples, share)) in parts.iter().zip(shares).enumerate() {
        let size = samples.len() as u64;
        if size == 0 {
            continue;
        }
        let drawn_before = |epoch: u64| match parts.len() {
            1 => epoch * size,
            _ => (epoch as f64 * total as f64 * share).round() as u64,
        };
        let (mut position, end) = (drawn_before(epoch), drawn_before(epoch + 1));
        while position < end {
            let pass = position / size;
            let permutation = Random::new(seed, stage, pass, &format!("order of part {index}"))
                .permutation(samples.len());
            let stop = end.min((pass + 1) * size);
            let range = (position - pass * size) as usize..(stop - pass * size) as usize;
            order.extend(permutation[range].iter().map(|i| samples[*i as usize]));
            position = stop;
        }
    }
    if parts.len() > 1 {
        Random::new(seed, stage, epoch, "order of the mixture").shuffle(&mut order);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_gives_a_permutation_an_epoch() {
        let parts = [(0..50).collect::<Vec<u32>>()];
        let first = mixed_order(&parts, &[1.0], 7, "sft", 0);
        let second = mixed_order(&parts, &[1.0], 7, "sft", 1);
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, parts[0]);
        }
    }

    #[test]
    fn shares_hold_and_samples_of_a_part_are_seen_equally_often() {
        let parts = [
            (0..100).collect::<Vec<u32>>(),
            (100..130).collect(),
            (130..133).collect(),
        ];
        let shares = [0.2, 0.795, 0.005];
        let mut seen = [0u32; 133];
        let epochs = 40;
        for epoch in 0..epochs {
            let order = mixed_order(&parts, &shares, 3, "sft", epoch);
            assert!(order.len().abs_diff(133) <= 2);
            let second = order.iter().filter(|s| (100..130).contains(*s)).count();
            assert!(second.abs_diff(106) <= 1, "{second}");
            order.iter().for_each(|s| seen[*s as usize] += 1);
            assert_eq!(order, mixed_order(&parts, &shares, 3, "sft", epoch));
        }
        for part in &parts {
            let counts: Vec<u32> = part.iter().map(|s| seen[*s as usize]).collect();
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(high - low <= 1, "{counts:?}");
            assert!(*low > 0);
        }
    }
}

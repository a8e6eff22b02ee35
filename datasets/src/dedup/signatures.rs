//! MinHash signatures: how many numbers two of them share is an estimate of their sets' Jaccard index
//! (Broder, "On the resemblance and containment of documents", 1997).

use crate::random::Random;
use crate::words::mix;

/// Hash functions (a·x + b) mod 2⁶⁴ of 32-bit numbers, of which the upper 32 bits are taken: strongly
/// universal (Dietzfelbinger, 1996), and without the division of a prime modulus.
pub struct HashFunctions {
    factors: Vec<u64>,
    terms: Vec<u64>,
}

impl HashFunctions {
    /// The same functions for the same count.
    pub fn new(count: usize) -> Self {
        let mut random = Random::new(0, "dedup", 0, "minhash");
        let (mut factors, mut terms) = (Vec::new(), Vec::new());
        for _ in 0..count {
            factors.push(random.u64());
            terms.push(random.u64());
        }
        Self { factors, terms }
    }

    /// The least value of each function over a set of hashes; the set may repeat them.
    pub fn signature(&self, set: impl Iterator<Item = u64>) -> Vec<u32> {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                // SAFETY: the processor has these instructions.
                return unsafe { self.signature_avx512(set) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has these instructions.
                return unsafe { self.signature_avx2(set) };
            }
        }
        self.least_values(set)
    }

    /// Four functions at a time; the same numbers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn signature_avx2(&self, set: impl Iterator<Item = u64>) -> Vec<u32> {
        self.least_values(set)
    }

    /// Eight functions at a time; the same numbers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    fn signature_avx512(&self, set: impl Iterator<Item = u64>) -> Vec<u32> {
        self.least_values(set)
    }

    #[inline(always)]
    fn least_values(&self, set: impl Iterator<Item = u64>) -> Vec<u32> {
        let mut least = vec![u32::MAX; self.factors.len()];
        for hash in set {
            let x = hash >> 32;
            for ((least, factor), term) in least.iter_mut().zip(&self.factors).zip(&self.terms) {
                let value = (factor.wrapping_mul(x).wrapping_add(*term) >> 32) as u32;
                *least = value.min(*least);
            }
        }
        least
    }
}

/// The estimated Jaccard index.
pub fn similarity(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len() as f64
}

/// What two records have in common that are candidates by this band.
pub fn band_hash(rows: &[u32]) -> u64 {
    rows.iter().fold(0, |hash, row| mix(hash ^ u64::from(*row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instructions_give_the_same_signature() {
        let set: Vec<u64> = (0..500).map(mix).collect();
        for count in [1, 7, 112] {
            let functions = HashFunctions::new(count);
            let expected: Vec<u32> = (functions.factors.iter().zip(&functions.terms))
                .map(|(factor, term)| {
                    let value = |hash: &u64| factor.wrapping_mul(hash >> 32).wrapping_add(*term);
                    let values = set.iter().map(|hash| (value(hash) >> 32) as u32);
                    values.min().unwrap()
                })
                .collect();
            assert_eq!(functions.signature(set.iter().copied()), expected);
            assert_eq!(functions.least_values(set.iter().copied()), expected);
        }
    }
}

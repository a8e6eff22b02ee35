//! Llama 3's frequency scaling, recovered from the factors that GGUF stores in its place.
//!
//! GGUF has no keys for `llama3` scaling. Converters write a tensor `rope_freqs.weight` with a
//! divisor for each of the head_dim/2 frequencies: 1 for short wavelengths, `factor` for long ones,
//! and between them 1 / ((1 − s)/factor + s) with s rising linearly in original/wavelength.

use std::f64::consts::TAU;

use crate::config::RopeScaling;

/// Every model with this scaling, Llama 3.1 to 3.3, has these two; the divisors alone determine
/// them only up to a common factor.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
/// Divisors are stored as f32, computed in f32 or f64.
const TOLERANCE: f64 = 1e-4;

/// Where files written here say the original length, under the architecture's name.
pub(crate) const ORIGINAL_LENGTH: &str = "rope.scaling.original_context_length";

/// Divisors of the `pairs` frequencies of a head.
fn divisors(theta: f64, pairs: usize, factor: f64, original: usize) -> impl Iterator<Item = f64> {
    let original = original as f64;
    (0..pairs).map(move |i| {
        let wavelength = TAU * theta.powf(i as f64 / pairs as f64);
        if wavelength < original / HIGH_FREQ_FACTOR {
            1.0
        } else if wavelength > original / LOW_FREQ_FACTOR {
            factor
        } else {
            let smooth =
                (original / wavelength - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    })
}

/// The divisors that GGUF stores for a scaling; `None` if it is another than `llama3`, or one that [`recover`] would
/// not find again.
pub(crate) fn stored_divisors(theta: f64, pairs: usize, scaling: &RopeScaling) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 {
        factor,
        original_max_position_embeddings: original,
        ..
    } = *scaling
    else {
        return None;
    };
    let divisors = divisors(theta, pairs, factor, original);
    let divisors: Vec<f32> = divisors.map(|divisor| divisor as f32).collect();
    let found = recover(theta, &divisors, Some(original));
    (found.as_ref() == Some(scaling)).then_some(divisors)
}

/// The scaling that gives these divisors; `None` if `llama3` scaling does not. `original` is the length that the file
/// names, if it does.
pub(crate) fn recover(theta: f64, found: &[f32], original: Option<usize>) -> Option<RopeScaling> {
    let largest = found.iter().copied().fold(1.0, f32::max);
    // The lowest frequency has the full factor, by its decimal form: 32, not 31.999998.
    let factor = (f64::from(largest) * 1e3).round() / 1e3;
    let matches = |original: usize| {
        divisors(theta, found.len(), factor, original)
            .zip(found)
            .all(|(expected, found)| (expected - f64::from(*found)).abs() <= TOLERANCE * expected)
    };
    if found.iter().all(|divisor| *divisor == 1.0) {
        return Some(RopeScaling::None);
    }
    // Llama 3's own length first: a short head may fit several.
    let customary = [8192, 1024, 2048, 4096, 16_384, 32_768, 65_536, 131_072];
    (original.into_iter().chain(customary))
        .find(|original| matches(*original))
        .map(|original_max_position_embeddings| RopeScaling::Llama3 {
            factor,
            low_freq_factor: LOW_FREQ_FACTOR,
            high_freq_factor: HIGH_FREQ_FACTOR,
            original_max_position_embeddings,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scaling_of_llama_3_is_recovered() {
        for (pairs, factor, original) in [(64, 8.0, 8192), (32, 32.0, 8192), (32, 4.0, 4096)] {
            let found: Vec<f32> = divisors(5e5, pairs, factor, original)
                .map(|divisor| divisor as f32)
                .collect();
            assert_eq!(
                recover(5e5, &found, None),
                Some(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: original,
                })
            );
        }
    }

    #[test]
    fn what_is_stored_is_recovered_or_refused() {
        let scaling =
            |factor, low_freq_factor, original_max_position_embeddings| RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor: 4.0,
                original_max_position_embeddings,
            };
        let scaled = scaling(8.0, 1.0, 32);
        let found = stored_divisors(1e4, 8, &scaled).unwrap();
        assert_eq!(recover(1e4, &found, Some(32)), Some(scaled));
        assert_eq!(stored_divisors(1e4, 8, &scaling(8.0, 2.0, 8192)), None);
        assert_eq!(stored_divisors(1e4, 8, &RopeScaling::None), None);
    }

    #[test]
    fn other_divisors_are_not_taken_for_it() {
        assert_eq!(recover(5e5, &[1.0; 32], None), Some(RopeScaling::None));
        assert_eq!(recover(5e5, &[1.0, 3.0, 2.0, 8.0], None), None);
        assert_eq!(recover(5e5, &[f32::NAN; 32], None), None);
        assert_eq!(recover(5e5, &[f32::INFINITY; 32], None), None);
    }
}

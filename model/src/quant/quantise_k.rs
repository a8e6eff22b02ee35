//! f32 to blocks of 256 values with a scale for each run of 16 or 32: Q4_K, Q5_K and Q6_K.
//!
//! The layouts are those of [`k_quants`](super::k_quants). The scale of a run is searched: a few candidates around
//! the obvious one, each corrected by weighted least squares, and the best of them is kept. What is added in which
//! order is ggml's, because it decides bits.

use half::f16;

use super::k_quants::{BLOCK, RUN};

/// Values that share a scale of Q6_K.
const SHORT_RUN: usize = 16;
/// Runs of smaller values than this are zeros.
const NOTHING: f32 = 1e-15;

/// How the scale of a run is searched: (first + 0.1·i + highest)/range for i from 0 to `steps`.
struct Search {
    highest: i32,
    first: f32,
    steps: u8,
}

/// value ≈ scale·code − minimum
struct Fit {
    scale: f32,
    minimum: f32,
}

/// Nearest integer, ties to even, as ggml has it: by the bits of the sum with 1.5·2²³, also where that is no rounding
/// any more.
fn nearest(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Scale, minimum and codes of a run, for a weighted square error. The lowest value that a run can hold is never
/// above zero.
fn fit_with_minimum(values: &[f32; RUN], search: &Search, codes: &mut [u8; RUN]) -> Fit {
    let squares = values.iter().fold(0.0, |sum, value| sum + value * value);
    let typical = (squares / RUN as f32).sqrt();
    let weights = values.map(|value| typical + value.abs());

    let (mut low, mut high) = (values[0], values[0]);
    let (mut weight_sum, mut value_sum) = (0.0_f32, 0.0_f32);
    for (value, weight) in values.iter().zip(&weights) {
        low = low.min(*value);
        high = high.max(*value);
        weight_sum += weight;
        value_sum += weight * value;
    }
    low = low.min(0.0);
    if high == low {
        codes.fill(0);
        let (scale, minimum) = (0.0, -low);
        return Fit { scale, minimum };
    }
    let highest = search.highest as f32;
    let coded = |inverse: f32, minimum: f32| {
        values.map(|value| nearest(inverse * (value - minimum)).clamp(0, search.highest) as u8)
    };
    let error = |codes: &[u8; RUN], scale: f32, minimum: f32| {
        let parts = codes.iter().zip(values).zip(&weights);
        parts.fold(0.0_f32, |sum, ((code, value), weight)| {
            let difference = scale * f32::from(*code) + minimum - value;
            sum + weight * (difference * difference)
        })
    };

    let inverse = highest / (high - low);
    let (mut scale, mut minimum) = (1.0 / inverse, low);
    *codes = coded(inverse, low);
    let mut best = error(codes, scale, minimum);
    for step in 0..=search.steps {
        // From the minimum that is best so far.
        let inverse = (search.first + 0.1 * f32::from(step) + highest) / (high - minimum);
        let candidate = coded(inverse, minimum);
        let (mut l, mut ll, mut xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for ((code, value), weight) in candidate.iter().zip(values).zip(&weights) {
            let code = f32::from(*code);
            l += weight * code;
            ll += weight * code * code;
            xl += weight * code * value;
        }
        let determinant = weight_sum * ll - l * l;
        if determinant > 0.0 {
            let mut new_scale = (weight_sum * xl - value_sum * l) / determinant;
            let mut new_minimum = (ll * value_sum - l * xl) / determinant;
            if new_minimum > 0.0 {
                new_minimum = 0.0;
                new_scale = xl / ll;
            }
            let new_error = error(&candidate, new_scale, new_minimum);
            if new_error < best {
                (best, scale, minimum) = (new_error, new_scale, new_minimum);
                *codes = candidate;
            }
        }
    }
    let minimum = -minimum;
    Fit { scale, minimum }
}

/// Codes of a block with scale, scale of the minima and the 6-bit pairs in the first 16 bytes of `block`.
fn with_minima(values: &[f32; BLOCK], search: &Search, block: &mut [u8]) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    let (runs, _) = values.as_chunks::<RUN>();
    let fits: [Fit; 8] = std::array::from_fn(|r| {
        let (codes, _) = codes.as_chunks_mut::<RUN>();
        fit_with_minimum(&runs[r], search, &mut codes[r])
    });
    // Not `f32::max`, which may take −0 for the larger zero.
    let larger = |most: f32, part: f32| if part > most { part } else { most };
    let largest = |part: fn(&Fit) -> f32| fits.iter().map(part).fold(0.0, larger);
    let (scale, minimum) = (largest(|fit| fit.scale), largest(|fit| fit.minimum));
    let inverse = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
    let (inverse_scale, inverse_minimum) = (inverse(scale), inverse(minimum));
    let pairs = fits.map(|fit| {
        let six_bits = |value: f32| (nearest(value) as u8).min(63);
        (
            six_bits(inverse_scale * fit.scale),
            six_bits(inverse_minimum * fit.minimum),
        )
    });
    let (scale, minimum) = (f16::from_f32(scale / 63.0), f16::from_f32(minimum / 63.0));
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..4].copy_from_slice(&minimum.to_le_bytes());
    put_pairs(&mut block[4..16], &pairs);

    // Codes for the scales as they are stored.
    let (code_runs, _) = codes.as_chunks_mut::<RUN>();
    for ((codes, values), (run_scale, run_minimum)) in code_runs.iter_mut().zip(runs).zip(pairs) {
        let run_scale = scale.to_f32() * f32::from(run_scale);
        let run_minimum = minimum.to_f32() * f32::from(run_minimum);
        if run_scale != 0.0 {
            *codes = values.map(|value| {
                nearest((value + run_minimum) / run_scale).clamp(0, search.highest) as u8
            });
        }
    }
    codes
}

/// As `scales_and_minima` of [`k_quants`](super::k_quants) reads them.
fn put_pairs(packed: &mut [u8], pairs: &[(u8, u8); 8]) {
    for i in 0..4 {
        let ((scale, minimum), (late_scale, late_minimum)) = (pairs[i], pairs[i + 4]);
        packed[i] = scale | (late_scale >> 4) << 6;
        packed[i + 4] = minimum | (late_minimum >> 4) << 6;
        packed[i + 8] = (late_scale & 15) | (late_minimum & 15) << 4;
    }
}

/// Low nibbles, two runs to 32 bytes.
fn put_nibbles(packed: &mut [u8], codes: &[u8; BLOCK]) {
    let pairs = codes.chunks_exact(2 * RUN);
    for (bytes, codes) in packed.chunks_exact_mut(RUN).zip(pairs) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (codes[i] & 15) | (codes[i + RUN] & 15) << 4;
        }
    }
}

pub(super) fn q4_k(values: &[f32; BLOCK], block: &mut [u8; 144]) {
    let search = Search {
        highest: 15,
        first: -1.0,
        steps: 20,
    };
    let codes = with_minima(values, &search, block);
    put_nibbles(&mut block[16..], &codes);
}

pub(super) fn q5_k(values: &[f32; BLOCK], block: &mut [u8; 176]) {
    let search = Search {
        highest: 31,
        first: -0.5,
        steps: 15,
    };
    let codes = with_minima(values, &search, block);
    for i in 0..RUN {
        let bits = (0..8).map(|r| (codes[r * RUN + i] >> 4) << r);
        block[16 + i] = bits.fold(0, |byte, bit| byte | bit);
    }
    put_nibbles(&mut block[48..], &codes);
}

/// Scale and codes from 0 to 63, around 32, of a run without a minimum. The square error is weighted by the squares
/// of the values.
fn fit_centred(values: &[f32; SHORT_RUN], codes: &mut [i32; SHORT_RUN]) -> f32 {
    let mut most = 0.0_f32;
    for value in values {
        if value.abs() > most.abs() {
            most = *value;
        }
    }
    if most.abs() < NOTHING {
        codes.fill(0);
        return 0.0;
    }
    let coded = |inverse: f32| values.map(|value| nearest(inverse * value).clamp(-32, 31));
    let sums = |codes: &[i32; SHORT_RUN]| {
        let parts = values.iter().zip(codes);
        parts.fold((0.0_f32, 0.0_f32), |(xl, ll), (value, code)| {
            let (weight, code) = (value * value, *code as f32);
            (xl + weight * value * code, ll + weight * code * code)
        })
    };
    let mut chosen = coded(-32.0 / most);
    let (xl, ll) = sums(&chosen);
    let mut scale = if ll != 0.0 { xl / ll } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9_i8..=9).filter(|step| *step != 0) {
        let candidate = coded(-(32.0 + 0.1 * f32::from(step)) / most);
        let (xl, ll) = sums(&candidate);
        if ll > 0.0 && xl * xl > best * ll {
            chosen = candidate;
            scale = xl / ll;
            best = scale * xl;
        }
    }
    *codes = chosen.map(|code| code + 32);
    scale
}

pub(super) fn q6_k(values: &[f32; BLOCK], block: &mut [u8; 210]) {
    let mut codes = [[0; SHORT_RUN]; BLOCK / SHORT_RUN];
    let (runs, _) = values.as_chunks::<SHORT_RUN>();
    let scales: [f32; BLOCK / SHORT_RUN] =
        std::array::from_fn(|r| fit_centred(&runs[r], &mut codes[r]));
    let mut most = 0.0_f32;
    for scale in scales {
        if scale.abs() > most.abs() {
            most = scale;
        }
    }
    block.fill(0);
    if most.abs() < NOTHING {
        return;
    }
    let inverse = -128.0 / most;
    let stored = f16::from_f32(1.0 / inverse);
    block[208..].copy_from_slice(&stored.to_le_bytes());
    for (r, ((codes, values), scale)) in codes.iter_mut().zip(runs).zip(scales).enumerate() {
        let run_scale = nearest(inverse * scale).min(127) as i8;
        block[192 + r] = run_scale as u8;
        let run_scale = stored.to_f32() * f32::from(run_scale);
        if run_scale != 0.0 {
            *codes = values.map(|value| nearest(value / run_scale).clamp(-32, 31) + 32);
        }
    }
    // Low nibbles, then pairs of high bits, each half of the block for itself.
    let codes: &[i32] = codes.as_flattened();
    for (half, codes) in codes.chunks_exact(128).enumerate() {
        for i in 0..32 {
            let [a, b, c, d] = [0, 32, 64, 96].map(|run| codes[run + i] as u8);
            block[half * 64 + i] = (a & 15) | (c & 15) << 4;
            block[half * 64 + 32 + i] = (b & 15) | (d & 15) << 4;
            block[128 + half * 32 + i] = (a >> 4) | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
        }
    }
}

//! Blocks of 256 values with a scale for each run of 16 or 32: Q4_K, Q5_K and Q6_K.
//!
//! Q4_K and Q5_K: f16 scale, f16 scale of the minima, eight pairs of 6-bit (scale, minimum), then
//! the values; a value is d·s·q − m·t. Q6_K: 16 signed 8-bit scales; a value is d·s·(q − 32).

use super::legacy_quants::half_at;

pub(super) const BLOCK: usize = 256;
/// Values that share one scale of Q4_K and Q5_K.
pub(super) const RUN: usize = 32;

/// The eight 6-bit scales and minima, unpacked from 12 bytes.
///
/// The first four of each lie in the low six bits of bytes 0–3 and 4–7. The other four have their
/// low nibbles in bytes 8–11 and their upper two bits on top of bytes 0–3 and 4–7.
fn scales_and_minima(packed: &[u8]) -> [(u8, u8); 8] {
    let mut pairs = [(0, 0); 8];
    for i in 0..4 {
        pairs[i] = (packed[i] & 63, packed[i + 4] & 63);
        pairs[i + 4] = (
            (packed[i + 8] & 15) | ((packed[i] >> 6) << 4),
            (packed[i + 8] >> 4) | ((packed[i + 4] >> 6) << 4),
        );
    }
    pairs
}

pub(super) fn q4_k(block: &[u8; 144], values: &mut [f32; BLOCK]) {
    let (scale, scale_of_minima) = (half_at(block, 0), half_at(block, 2));
    let pairs = scales_and_minima(&block[4..16]);
    // Each 32 bytes hold two runs: the first in the low nibbles, the second in the high ones.
    let packed = block[16..].chunks_exact(RUN);
    for ((runs, bytes), pairs) in values
        .chunks_exact_mut(2 * RUN)
        .zip(packed)
        .zip(pairs.chunks_exact(2))
    {
        let (low, high) = runs.split_at_mut(RUN);
        for (run, shift, (run_scale, run_minimum)) in [(low, 0, pairs[0]), (high, 4, pairs[1])] {
            let run_scale = scale * f32::from(run_scale);
            let run_minimum = scale_of_minima * f32::from(run_minimum);
            for (value, byte) in run.iter_mut().zip(bytes) {
                *value = run_scale * f32::from((byte >> shift) & 15) - run_minimum;
            }
        }
    }
}

pub(super) fn q5_k(block: &[u8; 176], values: &mut [f32; BLOCK]) {
    let (scale, scale_of_minima) = (half_at(block, 0), half_at(block, 2));
    let pairs = scales_and_minima(&block[4..16]);
    // Bit r of byte i of the high bits belongs to value i of run r.
    let (high_bits, packed) = block[16..].split_at(RUN);
    for (r, run) in values.chunks_exact_mut(RUN).enumerate() {
        let run_scale = scale * f32::from(pairs[r].0);
        let run_minimum = scale_of_minima * f32::from(pairs[r].1);
        let bytes = &packed[r / 2 * RUN..][..RUN];
        let shift = r % 2 * 4;
        for ((value, byte), high) in run.iter_mut().zip(bytes).zip(high_bits) {
            let quantised = ((byte >> shift) & 15) | (((high >> r) & 1) << 4);
            *value = run_scale * f32::from(quantised) - run_minimum;
        }
    }
}

pub(super) fn q6_k(block: &[u8; 210], values: &mut [f32; BLOCK]) {
    let (low_bits, rest) = block.split_at(128);
    let (high_bits, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    let scale = half_at(scale, 0);
    for (half, values) in values.chunks_exact_mut(128).enumerate() {
        let high_bits = &high_bits[half * 32..][..32];
        // Four runs of 32: low nibbles of bytes 0–31 and 32–63, then the high nibbles of the same.
        for (r, run) in values.chunks_exact_mut(32).enumerate() {
            let low_bits = &low_bits[half * 64 + r % 2 * 32..][..32];
            let low_shift = r / 2 * 4;
            let high_shift = r * 2;
            for (part, run) in run.chunks_exact_mut(16).enumerate() {
                let run_scale = scale * f32::from(scales[half * 8 + r * 2 + part] as i8);
                let low_bits = &low_bits[part * 16..][..16];
                let high_bits = &high_bits[part * 16..][..16];
                for ((value, low), high) in run.iter_mut().zip(low_bits).zip(high_bits) {
                    let quantised = ((low >> low_shift) & 15) | (((high >> high_shift) & 3) << 4);
                    *value = run_scale * (i32::from(quantised) - 32) as f32;
                }
            }
        }
    }
}

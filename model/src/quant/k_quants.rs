//! Blocks of 256 values with a scale for each run of 16 or 32: Q4_K, Q5_K and Q6_K.
//!
//! Q4_K and Q5_K: f16 scale, f16 scale of the minima, eight pairs of 6-bit (scale, minimum), then
//! the values; a value is d·s·q − m·t. Q6_K: 16 signed 8-bit scales; a value is d·s·(q − 32).

use super::format::Format;
use super::legacy_quants::sixteen;
use crate::ops::lanes::{LANES, Lanes};

pub(super) const BLOCK: usize = 256;
/// Values that share one scale of Q4_K and Q5_K.
pub(super) const RUN: usize = 32;

pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;

/// The eight 6-bit scales and minima, unpacked from 12 bytes.
///
/// The first four of each lie in the low six bits of bytes 0–3 and 4–7. The other four have their
/// low nibbles in bytes 8–11 and their upper two bits on top of bytes 0–3 and 4–7.
#[inline(always)]
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

impl Format for Q4K {
    type Block = [u8; 144];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 144], mut each: impl FnMut(usize, L::Floats)) {
        let [scale, scale_of_minima] = lanes.two_halves([block[0], block[1], block[2], block[3]]);
        let pairs = scales_and_minima(&block[4..16]);
        // Each 32 bytes hold two runs: the first in the low nibbles, the second in the high ones.
        for (r, (run_scale, run_minimum)) in pairs.into_iter().enumerate() {
            let run_scale = lanes.splat(scale * f32::from(run_scale));
            let run_minimum = lanes.splat(-(scale_of_minima * f32::from(run_minimum)));
            for part in 0..2 {
                let bytes = sixteen(block, 16 + r / 2 * RUN + part * LANES);
                let codes = nibble(lanes, lanes.unsigned_bytes(bytes), r % 2);
                let scaled = lanes.mul(run_scale, lanes.to_floats(codes));
                each(r * RUN + part * LANES, lanes.add(scaled, run_minimum));
            }
        }
    }
}

impl Format for Q5K {
    type Block = [u8; 176];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 176], mut each: impl FnMut(usize, L::Floats)) {
        let [scale, scale_of_minima] = lanes.two_halves([block[0], block[1], block[2], block[3]]);
        let pairs = scales_and_minima(&block[4..16]);
        // Bit r of byte i of the high bits belongs to value i of run r: they are used up from below.
        let mut high = [
            lanes.unsigned_bytes(sixteen(block, 16)),
            lanes.unsigned_bytes(sixteen(block, 16 + LANES)),
        ];
        for (r, (run_scale, run_minimum)) in pairs.into_iter().enumerate() {
            let run_scale = lanes.splat(scale * f32::from(run_scale));
            let run_minimum = lanes.splat(-(scale_of_minima * f32::from(run_minimum)));
            for (part, high) in high.iter_mut().enumerate() {
                let bytes = sixteen(block, 48 + r / 2 * RUN + part * LANES);
                let low = nibble(lanes, lanes.unsigned_bytes(bytes), r % 2);
                let codes = lanes.or(low, lanes.shift_left::<4>(lanes.and(*high, 1)));
                *high = lanes.shift_right::<1>(*high);
                let scaled = lanes.mul(run_scale, lanes.to_floats(codes));
                each(r * RUN + part * LANES, lanes.add(scaled, run_minimum));
            }
        }
    }
}

impl Format for Q6K {
    type Block = [u8; 210];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 210], mut each: impl FnMut(usize, L::Floats)) {
        let scale = lanes.half([block[208], block[209]]);
        let centre = lanes.splat(-32.0);
        for half in 0..2 {
            let mut high = [
                lanes.unsigned_bytes(sixteen(block, 128 + half * 32)),
                lanes.unsigned_bytes(sixteen(block, 128 + half * 32 + LANES)),
            ];
            // Four runs of 32: low nibbles of bytes 0–31 and 32–63, then the high nibbles of the same.
            for r in 0..4 {
                for (part, high) in high.iter_mut().enumerate() {
                    let run_scale = block[192 + half * 8 + r * 2 + part] as i8;
                    let run_scale = lanes.splat(scale * f32::from(run_scale));
                    let bytes = sixteen(block, half * 64 + r % 2 * 32 + part * LANES);
                    let low = nibble(lanes, lanes.unsigned_bytes(bytes), r / 2);
                    let codes = lanes.or(low, lanes.shift_left::<4>(lanes.and(*high, 3)));
                    *high = lanes.shift_right::<2>(*high);
                    let centred = lanes.add(lanes.to_floats(codes), centre);
                    let at = half * 128 + r * 32 + part * LANES;
                    each(at, lanes.mul(run_scale, centred));
                }
            }
        }
    }
}

/// The low (0) or the high (1) nibbles of bytes.
#[inline(always)]
fn nibble<L: Lanes>(lanes: L, bytes: L::Integers, which: usize) -> L::Integers {
    match which {
        0 => lanes.and(bytes, 15),
        _ => lanes.shift_right::<4>(bytes),
    }
}

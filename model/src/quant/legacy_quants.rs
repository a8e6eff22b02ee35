//! Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
//!
//! A block opens with its scale d as f16, the `_1` formats go on with a minimum m as f16. Byte i of
//! the packed values holds value i in its low and value i + 16 in its high nibble. The five-bit
//! formats keep the fifth bits of all values in 32 bits before them. A value is d·q (q centred) or
//! d·q + m.

use super::format::Format;
use crate::ops::lanes::{LANES, Lanes};

pub(super) const BLOCK: usize = 32;

pub(crate) struct Q4_0;
pub(crate) struct Q4_1;
pub(crate) struct Q5_0;
pub(crate) struct Q5_1;
pub(crate) struct Q8_0;

impl Format for Q4_0 {
    type Block = [u8; 18];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 18], mut each: impl FnMut(usize, L::Floats)) {
        let scale = lanes.splat(lanes.half([block[0], block[1]]));
        let centre = lanes.splat(-8.0);
        for (half, codes) in nibbles(lanes, block, 2).into_iter().enumerate() {
            let centred = lanes.add(lanes.to_floats(codes), centre);
            each(half * LANES, lanes.mul(scale, centred));
        }
    }
}

impl Format for Q4_1 {
    type Block = [u8; 20];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 20], mut each: impl FnMut(usize, L::Floats)) {
        let [scale, minimum] = lanes.two_halves([block[0], block[1], block[2], block[3]]);
        let (scale, minimum) = (lanes.splat(scale), lanes.splat(minimum));
        for (half, codes) in nibbles(lanes, block, 4).into_iter().enumerate() {
            let scaled = lanes.mul(scale, lanes.to_floats(codes));
            each(half * LANES, lanes.add(scaled, minimum));
        }
    }
}

impl Format for Q5_0 {
    type Block = [u8; 22];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 22], mut each: impl FnMut(usize, L::Floats)) {
        let scale = lanes.splat(lanes.half([block[0], block[1]]));
        let centre = lanes.splat(-16.0);
        for (half, codes) in five_bits(lanes, block, 2).into_iter().enumerate() {
            let centred = lanes.add(lanes.to_floats(codes), centre);
            each(half * LANES, lanes.mul(scale, centred));
        }
    }
}

impl Format for Q5_1 {
    type Block = [u8; 24];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 24], mut each: impl FnMut(usize, L::Floats)) {
        let [scale, minimum] = lanes.two_halves([block[0], block[1], block[2], block[3]]);
        let (scale, minimum) = (lanes.splat(scale), lanes.splat(minimum));
        for (half, codes) in five_bits(lanes, block, 4).into_iter().enumerate() {
            let scaled = lanes.mul(scale, lanes.to_floats(codes));
            each(half * LANES, lanes.add(scaled, minimum));
        }
    }
}

impl Format for Q8_0 {
    type Block = [u8; 34];
    const VALUES: usize = BLOCK;

    #[inline(always)]
    fn decode<L: Lanes>(lanes: L, block: &[u8; 34], mut each: impl FnMut(usize, L::Floats)) {
        let scale = lanes.splat(lanes.half([block[0], block[1]]));
        for half in 0..2 {
            let codes = lanes.signed_bytes(sixteen(block, 2 + half * LANES));
            each(half * LANES, lanes.mul(scale, lanes.to_floats(codes)));
        }
    }
}

/// The low and the high nibbles of the sixteen bytes at `at`.
#[inline(always)]
fn nibbles<L: Lanes>(lanes: L, block: &[u8], at: usize) -> [L::Integers; 2] {
    let bytes = lanes.unsigned_bytes(sixteen(block, at));
    [lanes.and(bytes, 15), lanes.shift_right::<4>(bytes)]
}

/// Codes whose fifth bits lie in the four bytes at `at` and whose nibbles lie behind them.
#[inline(always)]
fn five_bits<L: Lanes>(lanes: L, block: &[u8], at: usize) -> [L::Integers; 2] {
    let fifth = |half: usize| {
        let bits = [block[at + 2 * half], block[at + 2 * half + 1]];
        lanes.shift_left::<4>(lanes.spread_bits(u16::from_le_bytes(bits)))
    };
    let [low, high] = nibbles(lanes, block, at + 4);
    [lanes.or(low, fifth(0)), lanes.or(high, fifth(1))]
}

/// The sixteen bytes at `at`.
#[inline(always)]
pub(super) fn sixteen(bytes: &[u8], at: usize) -> &[u8; LANES] {
    bytes[at..]
        .first_chunk()
        .expect("a block is longer than its parts")
}

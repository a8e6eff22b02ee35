//! f32 to blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
//!
//! The layouts are those of [`legacy_quants`](super::legacy_quants). Codes are computed with the scale in f32, values
//! are read with it in f16: as ggml does.

use half::f16;

use super::legacy_quants::BLOCK;

const HALF: usize = BLOCK / 2;

/// The value of largest magnitude, the first of equals.
fn extreme(values: &[f32; BLOCK]) -> f32 {
    let larger = |most: f32, &value: &f32| match most.abs() < value.abs() {
        true => value,
        false => most,
    };
    values.iter().fold(0.0, larger)
}

/// Lowest and highest value, of zeros the first: `f32::min` may take either.
fn range(values: &[f32; BLOCK]) -> (f32, f32) {
    let mut range = (f32::MAX, f32::MIN);
    for &value in values {
        if value < range.0 {
            range.0 = value;
        }
        if value > range.1 {
            range.1 = value;
        }
    }
    range
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn put(block: &mut [u8], at: usize, scale: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
}

/// The low four bits of all codes: value i with value i + 16.
fn put_nibbles(packed: &mut [u8], codes: &[u8; BLOCK]) {
    for (i, byte) in packed.iter_mut().enumerate() {
        *byte = (codes[i] & 15) | (codes[i + HALF] << 4);
    }
}

/// The fifth bits of all codes, value i's at bit i.
fn fifth_bits(codes: &[u8; BLOCK]) -> [u8; 4] {
    let bits = codes.iter().enumerate();
    let bits = bits.fold(0, |bits, (i, code)| bits | (u32::from(code >> 4) & 1) << i);
    bits.to_le_bytes()
}

/// Codes around `middle` for a scale that gives the extreme value the lowest: positive and negative codes are not
/// equally many.
fn centred(values: &[f32; BLOCK], scale: f32, middle: f32) -> [u8; BLOCK] {
    let inverse = inverse(scale);
    let highest = 2 * middle as i32 - 1;
    values.map(|value| ((value * inverse + (middle + 0.5)) as i32).clamp(0, highest) as u8)
}

/// Codes from the minimum up.
fn from_minimum(values: &[f32; BLOCK], scale: f32, minimum: f32, highest: i32) -> [u8; BLOCK] {
    let inverse = inverse(scale);
    values.map(|value| (((value - minimum) * inverse + 0.5) as i32).min(highest) as u8)
}

pub(super) fn q4_0(values: &[f32; BLOCK], block: &mut [u8; 18]) {
    let scale = extreme(values) / -8.0;
    put(block, 0, scale);
    put_nibbles(&mut block[2..], &centred(values, scale, 8.0));
}

pub(super) fn q4_1(values: &[f32; BLOCK], block: &mut [u8; 20]) {
    let (low, high) = range(values);
    let scale = (high - low) / 15.0;
    put(block, 0, scale);
    put(block, 2, low);
    put_nibbles(&mut block[4..], &from_minimum(values, scale, low, 15));
}

pub(super) fn q5_0(values: &[f32; BLOCK], block: &mut [u8; 22]) {
    let scale = extreme(values) / -16.0;
    put(block, 0, scale);
    let codes = centred(values, scale, 16.0);
    block[2..6].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&mut block[6..], &codes);
}

pub(super) fn q5_1(values: &[f32; BLOCK], block: &mut [u8; 24]) {
    let (low, high) = range(values);
    let scale = (high - low) / 31.0;
    put(block, 0, scale);
    put(block, 2, low);
    let codes = from_minimum(values, scale, low, 31);
    block[4..8].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&mut block[8..], &codes);
}

pub(super) fn q8_0(values: &[f32; BLOCK], block: &mut [u8; 34]) {
    let scale = extreme(values).abs() / 127.0;
    put(block, 0, scale);
    let inverse = inverse(scale);
    for (byte, value) in block[2..].iter_mut().zip(values) {
        // Half away from zero.
        *byte = (value * inverse).round() as i8 as u8;
    }
}

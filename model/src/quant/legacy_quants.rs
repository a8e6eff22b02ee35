//! Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
//!
//! A block opens with its scale d as f16, the `_1` formats go on with a minimum m as f16. Byte i of
//! the packed values holds value i in its low and value i + 16 in its high nibble. The five-bit
//! formats keep the fifth bits of all values in 32 bits before them. A value is d·q (q centred) or
//! d·q + m.

use half::f16;

pub(super) const BLOCK: usize = 32;
const HALF: usize = BLOCK / 2;

pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

pub(super) fn q4_0(block: &[u8; 18], values: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    let packed = &block[2..];
    for i in 0..HALF {
        values[i] = scale * (i32::from(packed[i] & 15) - 8) as f32;
        values[i + HALF] = scale * (i32::from(packed[i] >> 4) - 8) as f32;
    }
}

pub(super) fn q4_1(block: &[u8; 20], values: &mut [f32; BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..];
    for i in 0..HALF {
        values[i] = scale * f32::from(packed[i] & 15) + minimum;
        values[i + HALF] = scale * f32::from(packed[i] >> 4) + minimum;
    }
}

pub(super) fn q5_0(block: &[u8; 22], values: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let packed = &block[6..];
    for i in 0..HALF {
        let low_value = u32::from(packed[i] & 15) | ((high >> i) & 1) << 4;
        let high_value = u32::from(packed[i] >> 4) | ((high >> (i + HALF)) & 1) << 4;
        values[i] = scale * (low_value as i32 - 16) as f32;
        values[i + HALF] = scale * (high_value as i32 - 16) as f32;
    }
}

pub(super) fn q5_1(block: &[u8; 24], values: &mut [f32; BLOCK]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    let packed = &block[8..];
    for i in 0..HALF {
        let low_value = u32::from(packed[i] & 15) | ((high >> i) & 1) << 4;
        let high_value = u32::from(packed[i] >> 4) | ((high >> (i + HALF)) & 1) << 4;
        values[i] = scale * (low_value as i32) as f32 + minimum;
        values[i + HALF] = scale * (high_value as i32) as f32 + minimum;
    }
}

pub(super) fn q8_0(block: &[u8; 34], values: &mut [f32; BLOCK]) {
    let scale = half_at(block, 0);
    for (value, quantised) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(*quantised as i8);
    }
}

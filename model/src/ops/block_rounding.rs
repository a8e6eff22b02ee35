//! Rounding to GGUF's blocks by tensor operations: what devices other than the CPU compute with. The arithmetic is that
//! of [`quantize_rows`](crate::quant::quantise::quantize_rows) and of reading its bytes back, in `f32`.

use burn::tensor::{DType, Tensor};

use crate::quant::block_type::GgmlType;

/// `values` `[rows, columns]` as a file of `kind` gives them back, in `f32`; `None` where there is no formula for the
/// type. Rows are whole blocks.
pub fn round_to_blocks(kind: GgmlType, values: &Tensor<2>) -> Option<Tensor<2>> {
    let shape = values.dims();
    let values = values.clone().cast(DType::F32);
    let length = kind.block_len();
    let blocks = |values: Tensor<2>| values.reshape([shape[0] * shape[1] / length, length]);
    let rounded = match kind {
        GgmlType::F32 => values,
        GgmlType::F16 => as_half(values),
        GgmlType::Q4_0 => centred(blocks(values), 8.0),
        GgmlType::Q5_0 => centred(blocks(values), 16.0),
        GgmlType::Q8_0 => symmetric(blocks(values)),
        _ => return None,
    };
    Some(rounded.reshape(shape))
}

fn as_half(values: Tensor<2>) -> Tensor<2> {
    values.cast(DType::F16).cast(DType::F32)
}

/// Codes from 0 to 2·`middle` − 1; the value of largest magnitude, the first of equals, has code 0.
fn centred(blocks: Tensor<2>, middle: f32) -> Tensor<2> {
    let shape = blocks.dims();
    let magnitudes = blocks.clone().abs();
    let largest = magnitudes.clone().max_dim(1).expand(shape);
    let places = Tensor::arange(0..shape[1] as i64, &blocks.device())
        .float()
        .cast(DType::F32)
        .reshape([1, shape[1]])
        .expand(shape);
    let candidates = places
        .clone()
        .mask_fill(magnitudes.lower(largest), shape[1] as f32);
    let others = places.not_equal(candidates.min_dim(1).expand(shape));
    let extreme = blocks.clone().mask_fill(others, 0.0).sum_dim(1);
    let scale = extreme / -middle;
    let (scale, inverse) = half_and_inverse(scale);
    let codes = (blocks * inverse + (middle + 0.5)).floor();
    (codes.clamp(0.0, 2.0 * middle - 1.0) - middle) * scale
}

/// Codes from −127 to 127, halves away from zero.
fn symmetric(blocks: Tensor<2>) -> Tensor<2> {
    let scale = blocks.clone().abs().max_dim(1) / 127.0;
    let (scale, inverse) = half_and_inverse(scale);
    let codes = blocks * inverse;
    let magnitudes = codes.clone().abs();
    let whole = magnitudes.clone().floor();
    let up = (magnitudes - whole.clone())
        .greater_equal_elem(0.5)
        .float()
        .cast(DType::F32);
    (whole + up) * codes.sign() * scale
}

/// The scale that values are read with, and the reciprocal of the one that codes are made with: 0 where all values of
/// the block read back as 0, however small they are.
fn half_and_inverse(scale: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let half = as_half(scale.clone());
    let nothing = half.clone().equal_elem(0.0);
    let inverse = (scale.full_like(1.0) / scale).mask_fill(nothing, 0.0);
    (half, inverse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::host::from_values;
    use crate::quant::quantise::round_trip;

    /// Normal rows, the edges of blocks, and values down to those that `f32` has no reciprocal for.
    pub fn blocks() -> Vec<f32> {
        let mut values = Vec::new();
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
        };
        for exponent in -150..18 {
            let scale = 2.0_f64.powi(exponent) as f32;
            values.extend((0..32).map(|_| random() * scale));
            // Ties of the largest magnitude, either sign first.
            for sign in [1.0, -1.0] {
                let mut block: Vec<f32> = (0..32).map(|_| 0.9 * random() * scale).collect();
                (block[3], block[17], block[30]) = (sign * scale, -sign * scale, sign * scale);
                values.extend(block);
            }
        }
        values.extend([0.0; 32]);
        values.extend([-0.0; 32]);
        values.extend([0.25; 32]);
        values.extend((0..32).map(|i| (i % 2) as f32 - 0.5));
        // Halves between codes.
        values.extend((0..32).map(|i| (i as f32 - 8.0) / 2.0));
        values
    }

    #[test]
    fn tensor_operations_give_the_values_of_the_cpu_s_loops() {
        let values = blocks();
        let rows = values.len() / 64;
        let values = &values[..rows * 64];
        let tensor = from_values::<f32, 2>(values.to_vec(), [rows, 64]);
        for kind in [
            GgmlType::F32,
            GgmlType::F16,
            GgmlType::Q4_0,
            GgmlType::Q5_0,
            GgmlType::Q8_0,
        ] {
            let mut host = values.to_vec();
            // Beyond this nothing is held in 16 bits.
            host.iter_mut().for_each(|value| *value *= 0.25);
            let tensor = tensor.clone() * 0.25;
            round_trip(kind, &mut host, 64).unwrap();
            let rounded = round_to_blocks(kind, &tensor).unwrap().into_data();
            let rounded: Vec<f32> = rounded.try_to_vec().unwrap();
            for (i, (a, b)) in rounded.iter().zip(&host).enumerate() {
                assert!(a == b, "{}, value {i}: {a:e}, {b:e}", kind.name());
            }
        }
        assert!(round_to_blocks(GgmlType::Q4K, &tensor).is_none());
    }
}

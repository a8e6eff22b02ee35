//! Rounding to quantised blocks by tensor operations: what devices other than the CPU compute with. The arithmetic is
//! that of [`quantize_rows`](crate::quant::quantise::quantize_rows) and of
//! [`IntegerMatrix`](crate::quant::integer::IntegerMatrix), there and back, in `f32`.

use burn::tensor::{DType, Tensor};
use half::f16;

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

/// `values` `[rows, columns]` as symmetric codes of `bits` give them back, in groups of `group` columns, in `f32`.
pub fn round_to_integers(values: &Tensor<2>, bits: u8, group: usize) -> Tensor<2> {
    let shape = values.dims();
    let groups = (values.clone().cast(DType::F32)).reshape([shape[0] * shape[1] / group, group]);
    let largest = groups.clone().abs().max_dim(1);
    let all_zeros = largest.clone().equal_elem(0.0);
    let range = largest.mask_fill(all_zeros, 1.0) * 2.0;
    let middle = f32::from(1_u8 << (bits - 1));
    let scale = as_half(range / (2.0 * middle - 1.0)).clamp_min(f16::from_bits(1).to_f32());
    let codes = (groups / scale.clone())
        .round()
        .clamp(-middle, middle - 1.0);
    (codes * scale).reshape(shape)
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
    use crate::ops::check::edge_blocks;
    use crate::ops::host::from_values;
    use crate::quant::integer::{IntegerConfig, IntegerMatrix};
    use crate::quant::quantise::round_trip;

    #[test]
    fn tensor_operations_give_the_values_of_the_cpu_s_loops() {
        let values = edge_blocks();
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

    #[test]
    fn integers_are_those_of_the_cpu_too() {
        let values: Vec<f32> = edge_blocks().iter().map(|value| value * 0.1).collect();
        let rows = values.len() / 64;
        let values = &values[..rows * 64];
        for (bits, group) in [(2, 16), (4, 32), (8, 64)] {
            let config = IntegerConfig {
                bits,
                group_size: Some(group),
                symmetric: true,
            };
            let host = IntegerMatrix::round_to_nearest(values, [rows, 64], &config).unwrap();
            let tensor = from_values::<f32, 2>(values.to_vec(), [rows, 64]);
            let rounded = round_to_integers(&tensor, bits, group).into_data();
            let rounded: Vec<f32> = rounded.try_to_vec().unwrap();
            assert_eq!(rounded, host.dequantize(), "{bits} bits");
        }
    }
}

//! Quantisation of f32 to GGUF blocks, in parallel over rows.
//!
//! The bytes are those of ggml's reference quantisers (`quantize_row_*_ref`, no importance matrix): the
//! arithmetic is theirs, in the same order in f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::block_type::GgmlType;
use super::blocks::{BlockError, VALUES_PER_TASK, dequantize};
use super::{quantise_k, quantise_legacy};

/// Rows of `row` values each as blocks of `kind`, row after row.
///
/// # Errors
/// If a row is not a whole number of blocks, `values` is not a whole number of rows, or a value is not finite or
/// beyond what the type holds.
pub fn quantize_rows(kind: GgmlType, values: &[f32], row: usize) -> Result<Vec<u8>, BlockError> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    if row == 0 || !values.len().is_multiple_of(row) {
        return Err(BlockError::PartialRow {
            values: values.len(),
            row,
        });
    }
    let partial = BlockError::PartialBlock { kind, row };
    let (Some(row_bytes), Some(whole)) = (kind.bytes_of(row), kind.bytes_of(values.len())) else {
        return Err(partial);
    };
    let mut bytes = vec![0; whole];
    let first_lost = bytes
        .par_chunks_mut(row_bytes)
        .zip(values.par_chunks(row))
        .with_min_len(VALUES_PER_TASK.div_ceil(row))
        .enumerate()
        .filter_map(|(number, (bytes, values))| {
            quantize_row(kind, values, bytes).map(|lost| number * row + lost)
        })
        .min();
    match first_lost {
        None => Ok(bytes),
        Some(index) => Err(BlockError::OutOfRange {
            kind,
            index,
            value: values[index],
        }),
    }
}

/// Replaces each value by the one that a file of this type gives back: what a model trained for that type computes
/// with.
///
/// # Errors
/// As [`quantize_rows`]; the values are then as they were.
pub fn round_trip(kind: GgmlType, values: &mut [f32], row: usize) -> Result<(), BlockError> {
    let bytes = quantize_rows(kind, values, row)?;
    dequantize(kind, &bytes, row, values)
}

/// One row; `bytes` and `values` have matching lengths. Gives the place of a value that the type cannot hold.
fn quantize_row(kind: GgmlType, values: &[f32], bytes: &mut [u8]) -> Option<usize> {
    match kind {
        GgmlType::F32 => {
            let (fours, _) = bytes.as_chunks_mut::<4>();
            for (four, value) in fours.iter_mut().zip(values) {
                *four = value.to_le_bytes();
            }
            None
        }
        GgmlType::F16 => f16_row(values, bytes),
        GgmlType::Bf16 => {
            let (pairs, _) = bytes.as_chunks_mut::<2>();
            for (pair, value) in pairs.iter_mut().zip(values) {
                *pair = bf16::from_f32(*value).to_le_bytes();
            }
            let lost = |value: &f32| value.is_finite() && bf16::from_f32(*value).is_infinite();
            values.iter().position(lost)
        }
        GgmlType::Q4_0 => each_block(values, bytes, &[0], quantise_legacy::q4_0),
        GgmlType::Q4_1 => each_block(values, bytes, &[0, 2], quantise_legacy::q4_1),
        GgmlType::Q5_0 => each_block(values, bytes, &[0], quantise_legacy::q5_0),
        GgmlType::Q5_1 => each_block(values, bytes, &[0, 2], quantise_legacy::q5_1),
        GgmlType::Q8_0 => each_block(values, bytes, &[0], quantise_legacy::q8_0),
        GgmlType::Q4K => each_block(values, bytes, &[0, 2], quantise_k::q4_k),
        GgmlType::Q5K => each_block(values, bytes, &[0, 2], quantise_k::q5_k),
        GgmlType::Q6K => each_block(values, bytes, &[208], quantise_k::q6_k),
    }
}

/// More than any block format holds, and little enough for its cube to be finite.
const BEYOND: f32 = 1e9;

/// Calls `encode` for each N values and the block of B bytes that holds them. Not held is a value that is not
/// finite, or the largest of a block one of whose f16 `scales` overflows.
fn each_block<const N: usize, const B: usize>(
    values: &[f32],
    bytes: &mut [u8],
    scales: &[usize],
    encode: impl Fn(&[f32; N], &mut [u8; B]),
) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks_mut::<B>();
    let (values, _) = values.as_chunks::<N>();
    let mut lost = None;
    for (number, (block, values)) in blocks.iter_mut().zip(values).enumerate() {
        encode(values, block);
        let held = values.iter().all(|value| value.abs() < BEYOND)
            && scales
                .iter()
                .all(|&at| f16::from_le_bytes([block[at], block[at + 1]]).is_finite());
        if !held && lost.is_none() {
            lost = largest(values).map(|at| number * N + at);
        }
    }
    lost
}

/// Where the value of largest magnitude is, the first of equals; one that is not a number counts as the largest.
fn largest(values: &[f32]) -> Option<usize> {
    let order = |a: &f32, b: &f32| a.abs().total_cmp(&b.abs());
    let places = values.iter().enumerate();
    places
        .rev()
        .max_by(|a, b| order(a.1, b.1))
        .map(|(at, _)| at)
}

/// In runs, because `half` converts slices with the processor's own instruction.
fn f16_row(values: &[f32], bytes: &mut [u8]) -> Option<usize> {
    let mut run = [f16::ZERO; 256];
    let mut lost = None;
    let (pairs, _) = bytes.as_chunks_mut::<2>();
    for (number, (pairs, values)) in pairs.chunks_mut(256).zip(values.chunks(256)).enumerate() {
        let run = &mut run[..values.len()];
        run.convert_from_f32_slice(values);
        for (i, ((pair, half), value)) in pairs.iter_mut().zip(&*run).zip(values).enumerate() {
            *pair = half.to_le_bytes();
            if half.is_infinite() && value.is_finite() && lost.is_none() {
                lost = Some(number * 256 + i);
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::ops::check::edge_blocks;
    use crate::random::normal_values;

    /// Rows of all kinds and the bytes that ggml makes of them; see `tests/golden/make_quantised.py`.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/quantised.safetensors");
    const ROW: usize = 256;

    fn golden_values() -> Vec<f32> {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let values = file.tensor("values").unwrap();
        let fours = values.data().as_chunks::<4>().0.iter();
        fours.map(|four| f32::from_le_bytes(*four)).collect()
    }

    #[test]
    fn every_type_equals_ggml_to_the_byte() {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let values = golden_values();
        for kind in GgmlType::ALL.into_iter().filter(|k| *k != GgmlType::F32) {
            let name = kind.name();
            let expected = file.tensor(name).unwrap();
            let bytes = quantize_rows(kind, &values, ROW).unwrap();
            assert_eq!(bytes.len(), expected.data().len(), "{name}");
            let row_bytes = kind.bytes_of(ROW).unwrap();
            let rows = bytes.chunks(row_bytes);
            for (r, (row, expected)) in rows.zip(expected.data().chunks(row_bytes)).enumerate() {
                assert_eq!(row, expected, "{name}, row {r}");
            }
        }
    }

    #[test]
    fn what_was_quantised_once_is_on_the_grid() {
        let values = golden_values();
        for kind in GgmlType::ALL {
            let mut once = values.clone();
            round_trip(kind, &mut once, ROW).unwrap();
            let bytes = quantize_rows(kind, &values, ROW).unwrap();
            let mut read = vec![0.0; values.len()];
            dequantize(kind, &bytes, ROW, &mut read).unwrap();
            assert_eq!(once, read, "{}", kind.name());
        }
        let mut once = values.clone();
        round_trip(GgmlType::F32, &mut once, ROW).unwrap();
        assert_eq!(once, values);
    }

    /// The legacy types without a minimum; a model trained for one of them is stored rounded and rounded again when it is
    /// exported.
    #[test]
    fn rounding_what_was_rounded_changes_nothing() {
        for kind in [
            GgmlType::F16,
            GgmlType::Q4_0,
            GgmlType::Q5_0,
            GgmlType::Q8_0,
        ] {
            let mut once = edge_blocks();
            once.extend(golden_values());
            once.extend(normal_values(1 << 20, 5, "rounded", 0.05));
            once.iter_mut().for_each(|value| *value *= 0.25);
            round_trip(kind, &mut once, 32).unwrap();
            let mut twice = once.clone();
            round_trip(kind, &mut twice, 32).unwrap();
            for (i, (a, b)) in once.iter().zip(&twice).enumerate() {
                assert!(a == b, "{}, value {i}: {a:e}, then {b:e}", kind.name());
            }
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_an_error() {
        let lost = |kind, place: usize, value: f32| {
            let mut values = vec![0.5; 4 * ROW];
            values[place] = value;
            let found = quantize_rows(kind, &values, ROW);
            let expected = BlockError::OutOfRange {
                kind,
                index: place,
                value,
            };
            match value.is_nan() {
                true => assert!(matches!(found, Err(BlockError::OutOfRange { .. }))),
                false => assert_eq!(found, Err(expected)),
            }
        };
        for kind in GgmlType::ALL.into_iter().filter(|k| *k != GgmlType::F32) {
            lost(kind, 700, f32::MAX);
            if kind.block_len() > 1 {
                lost(kind, 3, f32::NAN);
                lost(kind, 1023, f32::NEG_INFINITY);
            }
        }
        lost(GgmlType::F16, 300, 65520.0);
        let kind = GgmlType::Q4K;
        assert_eq!(
            quantize_rows(kind, &[0.0; 320], 320),
            Err(BlockError::PartialBlock { kind, row: 320 })
        );
        assert_eq!(
            quantize_rows(kind, &[0.0; 320], 256),
            Err(BlockError::PartialRow {
                values: 320,
                row: 256
            })
        );
        assert_eq!(quantize_rows(kind, &[], 256), Ok(Vec::new()));
    }
}

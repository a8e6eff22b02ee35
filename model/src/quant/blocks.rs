//! Dequantisation of GGUF blocks to f32, in parallel over rows.
//!
//! The arithmetic is that of the `gguf` Python package and of ggml's reference code, in the same
//! order in f32, so the values are equal to the bit (NaN payloads aside).

use half::f16;
use rayon::prelude::*;
use thiserror::Error;

use super::block_type::GgmlType;
use super::{k_quants, legacy_quants};

/// Rows are handed to threads in groups of at least this many values, so that short rows cost
/// nothing.
pub(super) const VALUES_PER_TASK: usize = 1 << 16;

/// Lengths that do not belong together, and values that have no place in a type.
#[derive(Debug, Error, PartialEq)]
pub enum BlockError {
    #[error(
        "a row of {row} values is not a whole number of {kind} blocks of {block}",
        kind = kind.name(), block = kind.block_len()
    )]
    PartialBlock { kind: GgmlType, row: usize },
    #[error("{found} bytes of {kind} data for {values} values, expected {expected}", kind = kind.name())]
    ByteCount {
        kind: GgmlType,
        values: usize,
        expected: usize,
        found: usize,
    },
    #[error("{values} values do not form whole rows of {row}")]
    PartialRow { values: usize, row: usize },
    #[error("value {index} is {value:?}, which {kind} cannot hold", kind = kind.name())]
    OutOfRange {
        kind: GgmlType,
        index: usize,
        value: f32,
    },
}

/// Dequantises rows of `row` values each: `bytes` (little endian, row after row) to `values`.
///
/// # Errors
/// If a row is not a whole number of blocks, `values` is not a whole number of rows, or `bytes` has
/// another length than these call for.
pub fn dequantize(
    kind: GgmlType,
    bytes: &[u8],
    row: usize,
    values: &mut [f32],
) -> Result<(), BlockError> {
    dequantize_rows(kind, bytes, row, values, |target| target)
}

/// As [`dequantize`], with row `source_row(r)` of the file written to row r of `values`.
///
/// `source_row` must map into the rows of `values`; a row that it maps elsewhere is left as it was.
pub fn dequantize_rows(
    kind: GgmlType,
    bytes: &[u8],
    row: usize,
    values: &mut [f32],
    source_row: impl Fn(usize) -> usize + Sync,
) -> Result<(), BlockError> {
    if values.is_empty() && bytes.is_empty() {
        return Ok(());
    }
    if row == 0 || !values.len().is_multiple_of(row) {
        return Err(BlockError::PartialRow {
            values: values.len(),
            row,
        });
    }
    let row_bytes = kind
        .bytes_of(row)
        .ok_or(BlockError::PartialBlock { kind, row })?;
    let expected = row_bytes.saturating_mul(values.len() / row);
    if bytes.len() != expected {
        return Err(BlockError::ByteCount {
            kind,
            values: values.len(),
            expected,
            found: bytes.len(),
        });
    }
    let rows_per_task = VALUES_PER_TASK.div_ceil(row);
    values
        .par_chunks_mut(row)
        .with_min_len(rows_per_task)
        .enumerate()
        .for_each(|(target, values)| {
            let source = source_row(target);
            let range = source
                .checked_mul(row_bytes)
                .and_then(|start| bytes.get(start..)?.get(..row_bytes));
            if let Some(bytes) = range {
                dequantize_row(kind, bytes, values);
            }
        });
    Ok(())
}

/// One row; `bytes` and `values` have matching lengths.
fn dequantize_row(kind: GgmlType, bytes: &[u8], values: &mut [f32]) {
    match kind {
        GgmlType::F32 => each_block(bytes, values, |bytes: &[u8; 4], value: &mut [f32; 1]| {
            value[0] = f32::from_le_bytes(*bytes);
        }),
        GgmlType::F16 => half_row(bytes, values),
        GgmlType::Bf16 => each_block(bytes, values, |bytes: &[u8; 2], value: &mut [f32; 1]| {
            value[0] = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }),
        GgmlType::Q4_0 => each_block(bytes, values, legacy_quants::q4_0),
        GgmlType::Q4_1 => each_block(bytes, values, legacy_quants::q4_1),
        GgmlType::Q5_0 => each_block(bytes, values, legacy_quants::q5_0),
        GgmlType::Q5_1 => each_block(bytes, values, legacy_quants::q5_1),
        GgmlType::Q8_0 => each_block(bytes, values, legacy_quants::q8_0),
        GgmlType::Q4K => each_block(bytes, values, k_quants::q4_k),
        GgmlType::Q5K => each_block(bytes, values, k_quants::q5_k),
        GgmlType::Q6K => each_block(bytes, values, k_quants::q6_k),
    }
}

/// Calls `decode` for each block of B bytes and the N values that it holds.
fn each_block<const B: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (blocks, _) = bytes.as_chunks::<B>();
    let (values, _) = values.as_chunks_mut::<N>();
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

/// f16 in runs, because `half` converts slices with the processor's own instruction, but wants them
/// aligned, which bytes of a file need not be.
fn half_row(bytes: &[u8], values: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    let mut run = [f16::ZERO; 256];
    let (pairs, _) = bytes.as_chunks::<2>();
    for (pairs, values) in pairs.chunks(run.len()).zip(values.chunks_mut(run.len())) {
        let run = &mut run[..pairs.len()];
        for (half, pair) in run.iter_mut().zip(pairs) {
            *half = f16::from_le_bytes(*pair);
        }
        run.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    /// Random blocks and the values that the `gguf` Python package gives them; see
    /// `tests/golden/make_blocks.py`.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/blocks.safetensors");

    fn golden(kind: GgmlType) -> (Vec<u8>, Vec<f32>) {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let bytes = file.tensor(&format!("{}.bytes", kind.name())).unwrap();
        let values = file.tensor(&format!("{}.values", kind.name())).unwrap();
        let values = values.data().as_chunks::<4>().0.iter();
        (
            bytes.data().to_vec(),
            values.map(|b| f32::from_le_bytes(*b)).collect(),
        )
    }

    #[test]
    fn every_type_equals_the_python_package_to_the_bit() {
        for kind in GgmlType::ALL {
            let (bytes, expected) = golden(kind);
            assert!(expected.len() >= 256, "{}", kind.name());
            let mut values = vec![0.0; expected.len()];
            dequantize(kind, &bytes, 256, &mut values).unwrap();
            for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
                assert!(
                    value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan(),
                    "{} value {i}: {value} instead of {expected}",
                    kind.name()
                );
            }
        }
    }

    #[test]
    fn rows_can_be_reordered_while_they_are_read() {
        let (bytes, expected) = golden(GgmlType::Q8_0);
        let rows = expected.len() / 64;
        let mut values = vec![0.0; expected.len()];
        dequantize_rows(GgmlType::Q8_0, &bytes, 64, &mut values, |r| rows - 1 - r).unwrap();
        for (r, row) in values.chunks(64).enumerate() {
            let expected = &expected[(rows - 1 - r) * 64..][..64];
            assert!(
                row.iter()
                    .zip(expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            );
        }
    }

    #[test]
    fn lengths_that_do_not_match_are_errors() {
        let mut values = [0.0; 64];
        let kind = GgmlType::Q4_0;
        assert_eq!(
            dequantize(kind, &[0; 36], 33, &mut values[..33]),
            Err(BlockError::PartialBlock { kind, row: 33 })
        );
        assert_eq!(
            dequantize(kind, &[0; 35], 32, &mut values),
            Err(BlockError::ByteCount {
                kind,
                values: 64,
                expected: 36,
                found: 35
            })
        );
        assert_eq!(
            dequantize(kind, &[0; 36], 0, &mut values),
            Err(BlockError::PartialRow { values: 64, row: 0 })
        );
        assert_eq!(dequantize(kind, &[], 32, &mut []), Ok(()));
    }
}

//! Dequantisation of GGUF blocks to f32, in parallel over rows.
//!
//! The arithmetic is that of the `gguf` Python package and of ggml's reference code, in the same
//! order in f32, so the values are equal to the bit (NaN payloads aside).

use std::marker::PhantomData;

use bytemuck::Zeroable;
use rayon::prelude::*;
use thiserror::Error;

use super::block_type::GgmlType;
use super::format::{Format, for_format};
use crate::ops::lanes::{self, Kernel, LANES, Lanes};

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
    let read = |(target, values): (usize, &mut [f32])| {
        let source = source_row(target);
        let range = source
            .checked_mul(row_bytes)
            .and_then(|start| bytes.get(start..)?.get(..row_bytes));
        if let Some(bytes) = range {
            dequantize_row(kind, bytes, values);
        }
    };
    if values.len() <= VALUES_PER_TASK {
        // Not even a call into the pool, which would wake a thread.
        values.chunks_mut(row).enumerate().for_each(read);
    } else {
        let rows = values.par_chunks_mut(row).enumerate();
        rows.with_min_len(VALUES_PER_TASK.div_ceil(row))
            .for_each(read);
    }
    Ok(())
}

/// One row; `bytes` and `values` have matching lengths.
fn dequantize_row(kind: GgmlType, bytes: &[u8], values: &mut [f32]) {
    for_format!(kind, F, {
        lanes::run(DequantizeRow::<F> {
            bytes,
            values,
            format: PhantomData,
        });
    });
}

struct DequantizeRow<'a, F> {
    bytes: &'a [u8],
    values: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for DequantizeRow<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (blocks, rest) = whole_blocks::<F>(self.bytes);
        let mut values = self.values.chunks_exact_mut(F::VALUES);
        for (block, values) in blocks.iter().zip(&mut values) {
            F::decode(lanes, block, |at, floats| {
                let values = values[at..].first_chunk_mut::<LANES>();
                lanes.store(floats, values.expect("blocks are whole vectors"));
            });
        }
        let values = values.into_remainder();
        if !values.is_empty() {
            F::decode(lanes, &padded_block::<F>(rest), |_, floats| {
                let mut last = [0.0; LANES];
                lanes.store(floats, &mut last);
                values.copy_from_slice(&last[..values.len()]);
            });
        }
    }
}

/// The blocks of a row and what is left: values of a type without blocks that do not fill a vector.
#[inline(always)]
pub(crate) fn whole_blocks<F: Format>(row: &[u8]) -> (&[F::Block], &[u8]) {
    let size = size_of::<F::Block>();
    let (whole, rest) = row.split_at(row.len() / size * size);
    (bytemuck::cast_slice(whole), rest)
}

/// What is left of a row, and zeros.
#[inline(always)]
pub(crate) fn padded_block<F: Format>(rest: &[u8]) -> F::Block {
    let mut block = F::Block::zeroed();
    bytemuck::bytes_of_mut(&mut block)[..rest.len()].copy_from_slice(rest);
    block
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
    fn every_instruction_set_and_length_gives_the_same_bits() {
        for kind in GgmlType::ALL {
            let (bytes, expected) = golden(kind);
            let step = kind.block_len().max(1);
            for length in (step..=expected.len().min(4 * step.max(19))).step_by(step) {
                let bytes = &bytes[..kind.bytes_of(length).unwrap()];
                let all = for_format!(kind, F, {
                    lanes::run_in_each(|| Dequantized::<F> {
                        bytes,
                        length,
                        format: PhantomData,
                    })
                });
                for values in all {
                    assert_eq!(values.len(), length);
                    assert!(values.iter().zip(&expected).all(|(a, b)| same_bits(*a, *b)));
                }
            }
        }
    }

    fn same_bits(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    struct Dequantized<'a, F> {
        bytes: &'a [u8],
        length: usize,
        format: PhantomData<F>,
    }

    impl<F: Format> Kernel for Dequantized<'_, F> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Vec<f32> {
            let mut values = vec![0.0; self.length];
            let row = DequantizeRow::<F> {
                bytes: self.bytes,
                values: &mut values,
                format: PhantomData,
            };
            row.run(lanes);
            values
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

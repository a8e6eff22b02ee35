//! x·Wᵀ for a few tokens, straight from the blocks of W: each is decoded once, in registers, for up to eight tokens.
//!
//! With so few tokens the time goes into reading W, so W is read in the form in which it is smallest.

use std::marker::PhantomData;
use std::ops::Range;

use super::block_matrix::BlockMatrix;
use super::host::SharedOutput;
use super::lanes::{self, Kernel, LANES, Lanes};
use crate::quant::blocks::{padded_block, whole_blocks};
use crate::quant::format::{Format, for_format};

/// Tokens that share one pass over the blocks.
pub(crate) const TOKENS: usize = 8;

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    /// `[tokens, stride]`; the product with row r of the matrix goes to column r.
    pub out: SharedOutput<f32>,
    pub stride: usize,
    /// Added to each product; one value a row of the matrix.
    pub bias: Option<&'a [f32]>,
    /// The products are added to what is there.
    pub add: bool,
}

/// Products of the matrix's `rows` with each token of `x` `[tokens, columns]`. Each value depends on its row and its
/// token alone: neither on `rows` nor on the other tokens.
///
/// # Safety
/// `out` holds the columns `rows` of every token, and nobody else touches them.
pub(crate) unsafe fn product(
    matrix: BlockMatrix,
    rows: Range<usize>,
    x: &[f32],
    destination: Destination,
) {
    let columns = matrix.columns();
    assert!(x.len().is_multiple_of(columns));
    let bytes = matrix.bytes(rows.clone());
    for_format!(matrix.kind(), F, {
        for (group, x) in x.chunks(TOKENS * columns).enumerate() {
            let task = Rows::<F> {
                bytes,
                row_bytes: matrix.row_bytes(),
                columns,
                x,
                first_row: rows.start,
                first_token: group * TOKENS,
                destination,
                format: PhantomData,
            };
            match x.len() / columns {
                1 => lanes::run(ForTokens::<F, 4, 1>(task)),
                2 => lanes::run(ForTokens::<F, 4, 2>(task)),
                3 | 4 => lanes::run(ForTokens::<F, 2, 4>(task)),
                _ => lanes::run(ForTokens::<F, 2, 8>(task)),
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Rows<'a, F> {
    bytes: &'a [u8],
    row_bytes: usize,
    columns: usize,
    /// At most `TOKENS` rows.
    x: &'a [f32],
    first_row: usize,
    first_token: usize,
    destination: Destination<'a>,
    format: PhantomData<F>,
}

/// R rows at a time, because a sum of one row waits for itself; T tokens, of which some may be missing.
struct ForTokens<'a, F, const R: usize, const T: usize>(Rows<'a, F>);

impl<F: Format, const R: usize, const T: usize> Kernel for ForTokens<'_, F, R, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let task = self.0;
        let tokens = task.x.len() / task.columns;
        let x = std::array::from_fn::<&[f32], T, _>(|t| {
            &task.x[t.min(tokens - 1) * task.columns..][..task.columns]
        });
        let count = task.bytes.len() / task.row_bytes;
        for row in (0..count / R * R).step_by(R) {
            let sums = task.sums::<L, R, T>(lanes, row, x);
            for (r, sums) in sums.iter().enumerate() {
                task.put(row + r, &sums[..tokens]);
            }
        }
        for row in count / R * R..count {
            let [sums] = task.sums::<L, 1, T>(lanes, row, x);
            task.put(row, &sums[..tokens]);
        }
    }
}

impl<F: Format> Rows<'_, F> {
    #[inline(always)]
    fn sums<L: Lanes, const R: usize, const T: usize>(
        &self,
        lanes: L,
        row: usize,
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        let rows = std::array::from_fn::<_, R, _>(|r| {
            whole_blocks::<F>(&self.bytes[(row + r) * self.row_bytes..][..self.row_bytes])
        });
        let blocks = rows[0].0.len();
        assert!(rows.iter().all(|row| row.0.len() == blocks));
        assert!(x.iter().all(|x| x.len() >= blocks * F::VALUES));
        let mut sums = [[lanes.splat(0.0); T]; R];
        for block in 0..blocks {
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: every row has so many blocks.
                let block_of_row = unsafe { row.0.get_unchecked(block) };
                // The rows that come next: the processor's own look-ahead does not reach from row to row.
                let next = std::ptr::from_ref(block_of_row).cast::<u8>();
                lanes.prefetch(next.wrapping_add(R * self.row_bytes));
                F::decode(lanes, block_of_row, |at, weights| {
                    for (x, sum) in x.iter().zip(&mut *sums) {
                        // SAFETY: every x has the values of so many blocks.
                        let x = unsafe { &*x.as_ptr().add(block * F::VALUES + at).cast() };
                        *sum = lanes.mul_add(weights, lanes.load(x), *sum);
                    }
                });
            }
        }
        let done = blocks * F::VALUES;
        if done < self.columns {
            let mut last = [[0.0; LANES]; T];
            for (x, last) in x.iter().zip(&mut last) {
                last[..self.columns - done].copy_from_slice(&x[done..]);
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                F::decode(lanes, &padded_block::<F>(row.1), |_, weights| {
                    for (last, sum) in last.iter().zip(&mut *sums) {
                        *sum = lanes.mul_add(weights, lanes.load(last), *sum);
                    }
                });
            }
        }
        // Loops, not `map`: the functions of arrays are not always compiled for the instructions of their caller.
        let mut products = [[0.0; T]; R];
        for (products, sums) in products.iter_mut().zip(&sums) {
            for (product, sum) in products.iter_mut().zip(sums) {
                *product = lanes.sum(*sum);
            }
        }
        products
    }

    /// Products of a row, one a token.
    #[inline(always)]
    fn put(&self, row: usize, products: &[f32]) {
        let row = self.first_row + row;
        let Destination {
            out,
            stride,
            bias,
            add,
        } = self.destination;
        let bias = bias.map_or(0.0, |bias| bias[row]);
        for (t, product) in products.iter().enumerate() {
            // SAFETY: the caller of `product` owns this place.
            unsafe {
                let out = out.at((self.first_token + t) * stride + row);
                *out = product + bias + if add { *out } else { 0.0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ops::check::{random, values};
    use crate::quant::block_type::GgmlType;
    use crate::quant::blocks::dequantize;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        values(&random([count, 1], seed))
            .into_iter()
            .map(|value| value as f32)
            .collect()
    }

    /// Blocks of any codes whose scales are small numbers.
    fn blocks(kind: GgmlType, values: usize, seed: u64) -> Vec<u8> {
        if kind.block_len() == 1 {
            let values = floats(values, seed).into_iter();
            return match kind {
                GgmlType::F16 => values
                    .flat_map(|value| half::f16::from_f32(value).to_le_bytes())
                    .collect(),
                GgmlType::Bf16 => values
                    .flat_map(|value| half::bf16::from_f32(value).to_le_bytes())
                    .collect(),
                _ => values.flat_map(f32::to_le_bytes).collect(),
            };
        }
        let mut bytes = Vec::new();
        let halves: &[usize] = match kind {
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
            GgmlType::Q6K => &[208],
            _ => &[0, 2],
        };
        for (block, value) in floats(values / kind.block_len(), seed).iter().enumerate() {
            let mut block: Vec<u8> = (0..kind.block_bytes())
                .map(|i| (((block * 131 + i * 37 + seed as usize) * 2_654_435_761) >> 13) as u8)
                .collect();
            for (i, &at) in halves.iter().enumerate() {
                let scale = half::f16::from_f32(value / 64.0 * (i as f32 + 1.0));
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            bytes.extend(block);
        }
        bytes
    }

    fn run(matrix: BlockMatrix, rows: Range<usize>, x: &[f32], out: &mut [f32], add: bool) {
        let stride = matrix.rows();
        let bias: Vec<f32> = (0..stride).map(|row| row as f32 / 8.0).collect();
        let destination = Destination {
            out: SharedOutput::new(out),
            stride,
            bias: add.then_some(&bias),
            add,
        };
        // SAFETY: `out` is as large and belongs to this call.
        unsafe { product(matrix, rows, x, destination) };
    }

    #[test]
    fn products_equal_those_with_the_dequantised_matrix() {
        let mut worst = 0.0_f64;
        for kind in GgmlType::ALL {
            for (case, tokens) in [1, 2, 3, 4, 5, 7, 8, 9, 13].into_iter().enumerate() {
                let (rows, columns) = match kind.block_len() {
                    1 => (7 + case, 29 + 13 * case),
                    block => (7 + case, block * (1 + case % 3)),
                };
                let bytes = blocks(kind, rows * columns, case as u64 + 1);
                let mut weights = vec![0.0; rows * columns];
                dequantize(kind, &bytes, columns, &mut weights).unwrap();
                let matrix = BlockMatrix::new(kind, columns, &bytes);
                let x = floats(tokens * columns, 77 + case as u64);
                let mut out = vec![1.0; tokens * rows];
                run(matrix, 0..rows, &x, &mut out, true);
                for t in 0..tokens {
                    for r in 0..rows {
                        let pairs = || {
                            let x = &x[t * columns..][..columns];
                            let weights = &weights[r * columns..][..columns];
                            x.iter()
                                .zip(weights)
                                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                        };
                        let added = 1.0 + r as f64 / 8.0;
                        let exact: f64 = pairs().sum::<f64>() + added;
                        let size: f64 = pairs().map(f64::abs).sum::<f64>() + added;
                        let error = (f64::from(out[t * rows + r]) - exact).abs() / size;
                        worst = worst.max(error);
                    }
                }
            }
        }
        println!("largest error: {worst:e} of the sum of absolute products");
        assert!(worst < 1e-6, "{worst:e}");
    }

    #[test]
    fn every_instruction_set_gives_the_same_products() {
        for kind in GgmlType::ALL {
            let (rows, columns, tokens) = (7, 256, 8);
            let bytes = blocks(kind, rows * columns, 3);
            let x = floats(tokens * columns, 4);
            let mut outs = vec![vec![0.0; rows * tokens]; 3];
            let places: Vec<_> = outs.iter_mut().map(|out| SharedOutput::new(out)).collect();
            let place = Cell::new(0);
            let sets = for_format!(kind, F, {
                lanes::run_in_each(|| {
                    let out = places[place.replace(place.get() + 1)];
                    ForTokens::<F, 2, 8>(Rows {
                        bytes: &bytes,
                        row_bytes: kind.bytes_of(columns).unwrap(),
                        columns,
                        x: &x,
                        first_row: 0,
                        first_token: 0,
                        destination: Destination {
                            out,
                            stride: rows,
                            bias: None,
                            add: false,
                        },
                        format: PhantomData,
                    })
                })
                .len()
            });
            for out in &outs[1..sets] {
                for (a, b) in out.iter().zip(&outs[0]) {
                    assert!((a - b).abs() < 1e-4, "{}: {a} {b}", kind.name());
                }
            }
        }
    }

    #[test]
    fn a_value_depends_on_its_row_and_its_token_alone() {
        for kind in GgmlType::ALL {
            let (rows, columns, tokens) = (11, 256, 13);
            let bytes = blocks(kind, rows * columns, 5);
            let matrix = BlockMatrix::new(kind, columns, &bytes);
            let x = floats(tokens * columns, 6);
            let mut whole = vec![0.0; tokens * rows];
            run(matrix, 0..rows, &x, &mut whole, false);
            let mut parts = vec![0.0; tokens * rows];
            for range in [0..3, 3..4, 4..11] {
                run(matrix, range, &x, &mut parts, false);
            }
            assert_eq!(parts, whole);
            for t in 0..tokens {
                let mut alone = vec![0.0; rows];
                run(
                    matrix,
                    0..rows,
                    &x[t * columns..][..columns],
                    &mut alone,
                    false,
                );
                assert_eq!(alone, whole[t * rows..][..rows]);
            }
        }
    }
}

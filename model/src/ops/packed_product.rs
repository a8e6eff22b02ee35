//! Products with a matrix in quantised blocks: panels of its rows are dequantised, used and forgotten.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::block_matrix::BlockMatrix;
use super::host::{HostTensor, SharedOutput, from_values, written};
use super::product::product;
use super::row_product::{self, Destination};
use crate::quant::nf4::Nf4;

/// Values of a dequantised panel: 2 MiB, little beside the product that all tokens take with it.
const PANEL_VALUES: usize = 1 << 20;

/// Rows of a panel are a multiple of what the product's kernels take at a time.
const ROW_BLOCK: usize = 64;

/// So few tokens are multiplied with the blocks directly, in tasks of so many rows.
const FEW_TOKENS: usize = 64;
const FEW_ROWS: usize = 256;

/// A matrix `[rows, columns]` whose rows are dequantised on demand.
pub trait Rows: Sync {
    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    /// Writes the values of whole rows from `first`.
    fn dequantize_rows(&self, first: usize, values: &mut [f32]);
}

impl Rows for BlockMatrix<'_> {
    fn rows(&self) -> usize {
        BlockMatrix::rows(self)
    }

    fn columns(&self) -> usize {
        BlockMatrix::columns(self)
    }

    fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        BlockMatrix::dequantize_rows(self, first, values);
    }
}

impl Rows for Nf4 {
    fn rows(&self) -> usize {
        Nf4::rows(self)
    }

    fn columns(&self) -> usize {
        Nf4::columns(self)
    }

    fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        Nf4::dequantize_rows(self, first, values);
    }
}

/// x·Wᵀ for `x` `[tokens, columns]`: `[tokens, rows]`. Does not depend on the number of threads.
pub fn forward(weight: BlockMatrix, x: &Tensor<2>) -> Tensor<2> {
    let ([tokens, _], rows) = (x.dims(), weight.rows());
    if tokens > FEW_TOKENS {
        return forward_panels(&weight, x);
    }
    let x = HostTensor::held(x);
    let mut y = vec![0.0; tokens * rows];
    few(weight, x.slice::<f32>(), SharedOutput::new(&mut y));
    from_values(y, [tokens, rows])
}

/// As [`forward`], by panels whatever the number of tokens.
pub fn forward_panels(weight: &dyn Rows, x: &Tensor<2>) -> Tensor<2> {
    let ([tokens, columns], rows) = (x.dims(), weight.rows());
    let x = HostTensor::held(x);
    let x = x.slice::<f32>();
    // Safety: each panel writes its own columns of y, all together every element.
    let y = unsafe {
        written(tokens * rows, |y: *mut f32| {
            for_each_panel(weight, |first, count, values| {
                product(
                    (tokens, count, columns),
                    (y.add(first), rows),
                    (x.as_ptr(), columns, 1),
                    (values.as_ptr(), 1, columns),
                    false,
                    gemm::Parallelism::Rayon(0),
                );
            });
        })
    };
    from_values(y, [tokens, rows])
}

/// x·Wᵀ for a plain `f32` matrix on the CPU and so few tokens that a general product would not pay; `None` for others.
pub fn forward_few(weight: &Tensor<2>, x: &Tensor<2>) -> Option<Tensor<2>> {
    let ([rows, columns], [tokens, _]) = (weight.dims(), x.dims());
    if tokens > row_product::TOKENS || [weight.dtype(), x.dtype()] != [DType::F32; 2] {
        return None;
    }
    let (weight, x) = (HostTensor::of(weight)?, HostTensor::of(x)?);
    let mut y = vec![0.0; tokens * rows];
    few(
        BlockMatrix::dense(columns, weight.slice()),
        x.slice(),
        SharedOutput::new(&mut y),
    );
    Some(from_values(y, [tokens, rows]))
}

fn few(weight: BlockMatrix, x: &[f32], out: SharedOutput<f32>) {
    let rows = weight.rows();
    (0..rows.div_ceil(FEW_ROWS))
        .into_par_iter()
        .for_each(|task| {
            let own = task * FEW_ROWS..rows.min((task + 1) * FEW_ROWS);
            let destination = Destination {
                out,
                stride: rows,
                bias: None,
                add: false,
            };
            // Safety: each task writes its own columns of the output.
            unsafe { row_product::product(weight, own, x, destination) };
        });
}

/// dy·W for `dy` `[tokens, rows]`: `[tokens, columns]`. Panels are added in order.
pub fn backward(weight: &dyn Rows, dy: &Tensor<2>) -> Tensor<2> {
    let ([tokens, rows], columns) = (dy.dims(), weight.columns());
    let dy = HostTensor::held(dy);
    let dy = dy.slice::<f32>();
    // Safety: the first panel writes every element, the others add to it.
    let dx = unsafe {
        written(tokens * columns, |dx| {
            for_each_panel(weight, |first, count, values| {
                product(
                    (tokens, columns, count),
                    (dx, columns),
                    (dy[first..].as_ptr(), rows, 1),
                    (values.as_ptr(), columns, 1),
                    first > 0,
                    gemm::Parallelism::Rayon(0),
                );
            });
        })
    };
    from_values(dx, [tokens, columns])
}

/// Dequantises panel after panel and gives each to `take`: its first row, the number of its rows, their values.
fn for_each_panel(weight: &dyn Rows, mut take: impl FnMut(usize, usize, &[f32])) {
    let (rows, columns) = (weight.rows(), weight.columns());
    let panels = (rows * columns).div_ceil(PANEL_VALUES).max(1);
    let panel = rows.div_ceil(panels).next_multiple_of(ROW_BLOCK);
    let mut values = vec![0.0; panel.min(rows) * columns];
    for first in (0..rows).step_by(panel) {
        let count = panel.min(rows - first);
        let values = &mut values[..count * columns];
        values
            .par_chunks_mut(ROW_BLOCK * columns)
            .enumerate()
            .for_each(|(block, values)| {
                weight.dequantize_rows(first + block * ROW_BLOCK, values);
            });
        take(first, count, values);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::linear::packed::Packed;
    use crate::ops::check::{assert_close, random};
    use crate::quant::block_type::GgmlType;

    /// Q8_0 rows with a scale of 1/64 and any codes.
    fn packed(rows: usize, columns: usize) -> Packed {
        let scale = half::f16::from_f32(1.0 / 64.0).to_le_bytes();
        let mut bytes = Vec::new();
        for block in 0..rows * columns / 32 {
            bytes.extend(scale);
            bytes.extend((0..32).map(|i| (block * 37 + i * 11) as u8));
        }
        Packed::new("w", [rows, columns], GgmlType::Q8_0, bytes).unwrap()
    }

    fn nf4(rows: usize, columns: usize) -> Packed {
        let dense: Vec<f32> = (0..rows * columns)
            .map(|i| ((i * 37 + i / 64) % 101) as f32 / 50.0 - 1.0)
            .collect();
        Packed::nf4("w", [rows, columns], &dense, &Device::flex()).unwrap()
    }

    #[test]
    fn products_equal_those_with_the_dense_matrix() {
        let device = Device::flex();
        for (tokens, weight) in [
            (1, packed(32, 32)),
            (3, packed(700, 96)),
            (16, packed(65, 64)),
            (70, packed(2500, 128)),
            (3, nf4(700, 192)),
            (70, nf4(2500, 128)),
        ] {
            let (rows, columns) = (weight.rows(), weight.columns());
            let data = TensorData::new(weight.values(), [rows, columns]);
            let dense = Tensor::<2>::from_data(data, (&device, DType::F32));
            let x = random([tokens, columns], 1).cast(DType::F32);
            let plain = x.clone().matmul(dense.clone().transpose());
            assert_close(&weight.forward(&x), &plain, 1e-5);
            if let Some(few) = forward_few(&dense, &x) {
                assert_close(&few, &plain, 1e-5);
            }
            let dy = random([tokens, rows], 2).cast(DType::F32);
            assert_close(&weight.backward(&dy), &dy.clone().matmul(dense), 1e-5);
        }
    }
}

//! Products with a matrix in quantised blocks: panels of its rows are dequantised, used and forgotten.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::host::{HostTensor, SharedOutput, from_values};
use crate::linear::packed::Packed;

/// Values of a dequantised panel: 256 KiB, so that it stays in a core's cache while all tokens use it.
const PANEL_VALUES: usize = 1 << 16;

fn panel_rows(columns: usize) -> usize {
    (PANEL_VALUES / columns.max(1)).max(8)
}

/// x·Wᵀ for `x` `[tokens, columns]`: `[tokens, rows]`. Does not depend on the number of threads.
pub fn forward(weight: &Packed, x: &Tensor<2>) -> Tensor<2> {
    let ([tokens, columns], rows) = (x.dims(), weight.rows());
    let x = HostTensor::held(x);
    let x = x.slice::<f32>();
    let mut y = vec![0.0; tokens * rows];
    let shared = SharedOutput::new(&mut y);
    let panel = panel_rows(columns);
    (0..rows.div_ceil(panel))
        .into_par_iter()
        .for_each_init(Vec::new, |values, task| {
            let first = task * panel;
            let count = panel.min(rows - first);
            values.resize(count * columns, 0.0);
            weight.dequantize_rows(first, values);
            // Safety: each task writes its own columns of y.
            unsafe {
                product(
                    (tokens, count, columns),
                    (shared.at(first), rows),
                    (x.as_ptr(), columns, 1),
                    (values.as_ptr(), 1, columns),
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
    from_values(y, [tokens, rows])
}

/// dy·W for `dy` `[tokens, rows]`: `[tokens, columns]`. Panels are added in order.
pub fn backward(weight: &Packed, dy: &Tensor<2>) -> Tensor<2> {
    let ([tokens, rows], columns) = (dy.dims(), weight.columns());
    let dy = HostTensor::held(dy);
    let dy = dy.slice::<f32>();
    let mut dx = vec![0.0; tokens * columns];
    let panel = 4 * panel_rows(columns);
    let mut values = vec![0.0; panel.min(rows) * columns];
    for first in (0..rows).step_by(panel) {
        let count = panel.min(rows - first);
        let values = &mut values[..count * columns];
        weight.dequantize_rows(first, values);
        // Safety: `dx` belongs to this call; the shapes are those of the slices.
        unsafe {
            product(
                (tokens, columns, count),
                (dx.as_mut_ptr(), columns),
                (dy[first..].as_ptr(), rows, 1),
                (values.as_ptr(), columns, 1),
                true,
                gemm::Parallelism::Rayon(0),
            );
        }
    }
    from_values(dx, [tokens, columns])
}

/// `out (+)= a · b` for `(rows, columns, inner)`; `out` has row stride, `a` and `b` row and column strides.
///
/// # Safety
/// All elements that the shape and strides reach are valid, and nobody else touches those of `out`.
unsafe fn product(
    (m, n, k): (usize, usize, usize),
    out: (*mut f32, usize),
    a: (*const f32, usize, usize),
    b: (*const f32, usize, usize),
    add: bool,
    parallelism: gemm::Parallelism,
) {
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.0,
            1,
            out.1 as isize,
            add,
            a.0,
            a.2 as isize,
            a.1 as isize,
            b.0,
            b.2 as isize,
            b.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
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
            (70, packed(2500, 128)),
            (3, nf4(700, 192)),
        ] {
            let (rows, columns) = (weight.rows(), weight.columns());
            let data = TensorData::new(weight.values(), [rows, columns]);
            let dense = Tensor::<2>::from_data(data, (&device, DType::F32));
            let x = random([tokens, columns], 1).cast(DType::F32);
            let plain = x.clone().matmul(dense.clone().transpose());
            assert_close(&forward(&weight, &x), &plain, 1e-5);
            let dy = random([tokens, rows], 2).cast(DType::F32);
            assert_close(&backward(&weight, &dy), &dy.clone().matmul(dense), 1e-5);
        }
    }
}

//! Rows of W + b·a, made where a product reads them: an adapter costs a product of its rank a panel of weights, not
//! a pass over the activations, and nothing of the matrix's size is kept.

use burn::tensor::{DType, Tensor};

use super::host::HostTensor;
use super::low_rank::add_low_rank;
use super::packed_product::{Rows, backward, forward_panels};

/// With fewer tokens the low-rank products beside the frozen one are less work than changing its rows.
const MIN_TOKENS: usize = 128;

/// `a` `[rank, columns]` and `b` `[rows, rank]`, both `f32` on the CPU.
struct AdaptedRows<'a> {
    base: &'a dyn Rows,
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
}

impl Rows for AdaptedRows<'_> {
    fn rows(&self) -> usize {
        self.base.rows()
    }

    fn columns(&self) -> usize {
        self.base.columns()
    }

    fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        self.base.dequantize_rows(first, values);
        let rows = values.len() / self.columns();
        let b = &self.b[first * self.rank..][..rows * self.rank];
        add_low_rank(values, self.columns(), b, self.a);
    }
}

/// Whether products with W + b·a are to be taken with changed rows: `tokens` are many, and all is `f32` on the CPU.
pub fn pays(x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>) -> bool {
    x.dims()[0] >= MIN_TOKENS
        && [x, a, b]
            .iter()
            .all(|t| t.dtype() == DType::F32 && HostTensor::of(t).is_some())
}

/// x·(W + b·a)ᵀ for `x` `[tokens, columns]`: `[tokens, rows]`.
pub fn adapted_forward(base: &dyn Rows, [a, b]: [&Tensor<2>; 2], x: &Tensor<2>) -> Tensor<2> {
    with_rows(base, [a, b], |rows| forward_panels(rows, x))
}

/// dy·(W + b·a) for `dy` `[tokens, rows]`: `[tokens, columns]`.
pub fn adapted_backward(base: &dyn Rows, [a, b]: [&Tensor<2>; 2], dy: &Tensor<2>) -> Tensor<2> {
    with_rows(base, [a, b], |rows| backward(rows, dy))
}

fn with_rows(
    base: &dyn Rows,
    [a, b]: [&Tensor<2>; 2],
    take: impl FnOnce(&dyn Rows) -> Tensor<2>,
) -> Tensor<2> {
    let rank = a.dims()[0];
    let (a, b) = (HostTensor::held(a), HostTensor::held(b));
    let (a, b) = (a.slice::<f32>(), b.slice::<f32>());
    take(&AdaptedRows { base, a, b, rank })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::block_matrix::BlockMatrix;
    use crate::ops::check::{assert_close, random};

    #[test]
    fn equals_both_products_apart() {
        let [w, a, b] = [([200, 96], 1), ([3, 96], 2), ([200, 3], 3)]
            .map(|(shape, seed)| random(shape, seed).cast(DType::F32));
        let [x, dy] = [([130, 96], 4), ([130, 200], 5)]
            .map(|(shape, seed)| random(shape, seed).cast(DType::F32));
        assert!(pays(&x, &a, &b) && !pays(&x.clone().slice([0..5, 0..96]), &a, &b));
        let held = HostTensor::held(&w);
        let base = BlockMatrix::dense(96, held.slice());
        let plain = x.clone().matmul(w.clone().transpose())
            + x.clone()
                .matmul(a.clone().transpose())
                .matmul(b.clone().transpose());
        assert_close(&adapted_forward(&base, [&a, &b], &x), &plain, 1e-5);
        let plain = dy.clone().matmul(w.clone()) + dy.clone().matmul(b.clone()).matmul(a.clone());
        assert_close(&adapted_backward(&base, [&a, &b], &dy), &plain, 1e-5);
    }
}

//! a·b added to what is there: what an adapter adds, without a second array of its size.

use burn::tensor::Tensor;
use gemm::Parallelism;

use super::host::{HostTensor, is_host, map_in_place};
use super::product::product;
use crate::for_real;

/// `sum + a·b` for `a` `[m, k]` and `b` `[k, n]`: `[m, n]`, in the dtype of all three.
pub fn add_product(sum: Tensor<2>, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    let ([m, k], [_, n]) = (a.dims(), b.dims());
    if !is_host(&sum) {
        return sum + a.clone().matmul(b.clone());
    }
    add_strided(sum, (m, n, k), (a, k, 1), (b, n, 1))
}

/// `sum + a·bᵀ` for `a` `[m, k]` and `b` `[n, k]`: `[m, n]`, in the dtype of all three.
pub fn add_product_transposed(sum: Tensor<2>, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    let ([m, k], [n, _]) = (a.dims(), b.dims());
    if !is_host(&sum) {
        return sum + a.clone().matmul(b.clone().transpose());
    }
    add_strided(sum, (m, n, k), (a, k, 1), (b, 1, k))
}

/// `sum + a·b` on the CPU for `(rows, columns, inner)`; `a` and `b` with row and column strides.
fn add_strided(
    sum: Tensor<2>,
    (m, n, k): (usize, usize, usize),
    a: (&Tensor<2>, usize, usize),
    b: (&Tensor<2>, usize, usize),
) -> Tensor<2> {
    for_real!(sum.dtype(), F, {
        let (a_held, b_held) = (HostTensor::held(a.0), HostTensor::held(b.0));
        let (a_values, b_values) = (a_held.slice::<F>(), b_held.slice::<F>());
        map_in_place::<F, 2>(sum, |sum| {
            // Safety: the three slices have exactly the elements that these shapes and strides reach.
            unsafe {
                product(
                    (m, n, k),
                    (sum.as_mut_ptr(), n),
                    (a_values.as_ptr(), a.1, a.2),
                    (b_values.as_ptr(), b.1, b.2),
                    true,
                    Parallelism::Rayon(0),
                );
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, random};

    #[test]
    fn adds_to_the_sum() {
        let (sum, a, b) = (random([7, 5], 1), random([7, 3], 2), random([3, 5], 3));
        let plain = sum.clone() + a.clone().matmul(b.clone());
        assert_close(&add_product(sum.clone(), &a, &b), &plain, 1e-13);
        let b = b.transpose();
        assert_close(&add_product_transposed(sum, &a, &b), &plain, 1e-13);
    }
}

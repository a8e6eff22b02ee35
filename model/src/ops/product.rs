//! aᵀ·b added to what is there: the gradient of a weight, without a second array of the weight's size.

use burn::tensor::Tensor;

use super::host::{HostTensor, is_host, map_in_place};
use crate::for_real;

/// `sum + aᵀ·b` for `a` `[tokens, out]` and `b` `[tokens, in]`: `[out, in]`, in the dtype of `sum`.
pub fn accumulate_transposed(sum: Option<Tensor<2>>, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    let Some(sum) = sum else {
        return a.clone().transpose().matmul(b.clone());
    };
    if !is_host(&sum) || sum.dtype() != a.dtype() {
        let product = a.clone().transpose().matmul(b.clone());
        return sum.clone() + product.cast(sum.dtype());
    }
    let ([tokens, out], [_, input]) = (a.dims(), b.dims());
    for_real!(sum.dtype(), F, {
        let a = HostTensor::of(a).expect("on the device of the sum");
        let b = HostTensor::of(b).expect("on the device of the sum");
        let (a, b) = (a.slice::<F>(), b.slice::<F>());
        map_in_place::<F, 2>(sum, |sum| {
            // Safety: the three slices have exactly the elements that these shapes and strides reach.
            unsafe {
                gemm::gemm(
                    out,
                    input,
                    tokens,
                    sum.as_mut_ptr(),
                    1,
                    input as isize,
                    true,
                    a.as_ptr(),
                    out as isize,
                    1,
                    b.as_ptr(),
                    1,
                    input as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::Rayon(0),
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
        let (sum, a, b) = (random([3, 5], 1), random([7, 3], 2), random([7, 5], 3));
        let plain = sum.clone() + a.clone().transpose().matmul(b.clone());
        assert_close(&accumulate_transposed(Some(sum), &a, &b), &plain, 1e-13);
    }
}

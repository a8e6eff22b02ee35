//! The products of a linear layer: x·Wᵀ, dy·W and dyᵀ·x. On the CPU none of them needs more memory than its result and
//! small panels: a head's result is as large as all logits of a chunk.

use burn::tensor::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::host::{HostTensor, SharedOutput, from_values, is_host, map_in_place, written};
use super::real::Real;
use crate::span::Cost;
use crate::{for_real, operation};

/// Rows of a head's matrix that are worked on together: what is packed of them stays small.
const PANEL: usize = 4096;

/// x·Wᵀ for `x` `[tokens, columns]` and `weight` `[rows, columns]` of one dtype: `[tokens, rows]`.
pub fn forward(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    if !is_host(x) {
        return x.clone().matmul(weight.clone().transpose());
    }
    let ([tokens, columns], rows) = (x.dims(), weight.dims()[0]);
    for_real!(x.dtype(), F, {
        let (x, weight) = (HostTensor::held(x), HostTensor::held(weight));
        let (x, weight) = (x.slice::<F>(), weight.slice::<F>());
        // Safety: the product writes every element of its result.
        let y = unsafe {
            written(tokens * rows, |y| {
                product(
                    (tokens, rows, columns),
                    (y, rows),
                    (x.as_ptr(), columns, 1),
                    (weight.as_ptr(), 1, columns),
                    false,
                    Parallelism::Rayon(0),
                );
            })
        };
        from_values(y, [tokens, rows])
    })
}

/// dy·W for `dy` `[tokens, rows]` and `weight` `[rows, columns]` of one dtype: `[tokens, columns]`.
pub fn backward(dy: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    if !is_host(dy) {
        return dy.clone().matmul(weight.clone());
    }
    let ([tokens, rows], columns) = (dy.dims(), weight.dims()[1]);
    for_real!(dy.dtype(), F, {
        let (dy, weight) = (HostTensor::held(dy), HostTensor::held(weight));
        let (dy, weight) = (dy.slice::<F>(), weight.slice::<F>());
        let part = |first: usize, count: usize, parallelism: Parallelism| {
            // Safety: the product writes every element of its result and reads `count` rows of the weight.
            unsafe {
                written(tokens * columns, |dx| {
                    product(
                        (tokens, columns, count),
                        (dx, columns),
                        (dy[first..].as_ptr(), rows, 1),
                        (weight[first * columns..].as_ptr(), columns, 1),
                        false,
                        parallelism,
                    );
                })
            }
        };
        let dx = if rows <= PANEL {
            part(0, rows, Parallelism::Rayon(0))
        } else {
            // A long sum in fixed parts, added in order: threads need not wait for each other, and the bits do not
            // depend on their number.
            let mut parts: Vec<Vec<F>> = (0..rows.div_ceil(PANEL))
                .into_par_iter()
                .map(|panel| {
                    let first = panel * PANEL;
                    part(first, PANEL.min(rows - first), Parallelism::None)
                })
                .collect();
            let mut sum = parts.remove(0);
            sum.par_chunks_mut(PANEL)
                .enumerate()
                .for_each(|(block, sum)| {
                    for part in &parts {
                        let part = &part[block * PANEL..][..sum.len()];
                        for (sum, value) in sum.iter_mut().zip(part) {
                            *sum += *value;
                        }
                    }
                });
            sum
        };
        from_values(dx, [tokens, columns])
    })
}

/// `sum + aᵀ·b` for `a` `[tokens, out]` and `b` `[tokens, in]`: `[out, in]`, in the dtype of `sum`. The gradient of a
/// weight, without a second array of the weight's size.
pub fn accumulate_transposed(sum: Option<Tensor<2>>, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    let _span = operation!("weight gradient", Cost::product(a, b, a.dims()[0]));
    let sum = match sum {
        Some(sum) if is_host(&sum) && sum.dtype() == a.dtype() => Some(sum),
        None if is_host(a) => None,
        other => {
            let product = a.clone().transpose().matmul(b.clone());
            return match other {
                Some(sum) => sum.clone() + product.cast(sum.dtype()),
                None => product,
            };
        }
    };
    let ([tokens, out], [_, input]) = (a.dims(), b.dims());
    for_real!(a.dtype(), F, {
        let (a, b) = (HostTensor::held(a), HostTensor::held(b));
        let (a, b) = (a.slice::<F>(), b.slice::<F>());
        let work = |sum: SharedOutput<F>, add: bool| {
            let panel = |first: usize, parallelism: Parallelism| {
                // Safety: each panel writes its own rows of the sum.
                unsafe {
                    product(
                        (PANEL.min(out - first), input, tokens),
                        (sum.at(first * input), input),
                        (a[first..].as_ptr(), 1, out),
                        (b.as_ptr(), input, 1),
                        add,
                        parallelism,
                    );
                }
            };
            match out <= PANEL {
                true => panel(0, Parallelism::Rayon(0)),
                false => (0..out.div_ceil(PANEL))
                    .into_par_iter()
                    .for_each(|number| panel(number * PANEL, Parallelism::None)),
            }
        };
        match sum {
            Some(sum) => map_in_place::<F, 2>(sum, |sum| work(SharedOutput::new(sum), true)),
            // Safety: the panels write every element.
            None => from_values(
                unsafe { written(out * input, |sum| work(SharedOutput::at_start(sum), false)) },
                [out, input],
            ),
        }
    })
}

/// `out (+)= a · b` for `(rows, columns, inner)`; `out` has row stride, `a` and `b` row and column strides.
///
/// # Safety
/// All elements that the shape and strides reach are valid, and nobody else touches those of `out`, which need no value
/// unless `add`.
pub(crate) unsafe fn product<F: Real>(
    (m, n, k): (usize, usize, usize),
    out: (*mut F, usize),
    a: (*const F, usize, usize),
    b: (*const F, usize, usize),
    add: bool,
    parallelism: Parallelism,
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
            F::ONE,
            F::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, random};

    #[test]
    fn products_equal_those_of_tensors() {
        for (tokens, rows, columns) in [(7, 3, 5), (9, 2 * PANEL + 5, 4)] {
            let (x, dy) = (random([tokens, columns], 1), random([tokens, rows], 2));
            let weight = random([rows, columns], 3);
            let plain = x.clone().matmul(weight.clone().transpose());
            assert_close(&forward(&x, &weight), &plain, 1e-12);
            let plain = dy.clone().matmul(weight.clone());
            assert_close(&backward(&dy, &weight), &plain, 1e-12);
            let plain = dy.clone().transpose().matmul(x.clone());
            assert_close(&accumulate_transposed(None, &dy, &x), &plain, 1e-12);
            let sum = accumulate_transposed(Some(weight.clone()), &dy, &x);
            assert_close(&sum, &(weight + plain), 1e-12);
        }
    }
}

//! Root-mean-square layer normalisation (arXiv 1910.07467): y = w · x / √(mean(x²) + ε).

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::host::{HostTensor, from_values, is_host, write_chunks};
use super::real::{Real, lane_sum};
use super::simd::widest;
use crate::span::Cost;
use crate::{for_real, operation};

/// Normalises each row of `x` `[rows, width]` with `weight` `[1, width]`.
pub fn forward(x: &Tensor<2>, weight: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let _span = operation!("rms_norm forward", Cost::arrays([x, x, weight]));
    #[cfg(feature = "cube")]
    if super::cube::runs(x) {
        return super::cube::rms_norm::forward(x, weight, epsilon);
    }
    if !is_host(x) {
        return forward_formula(x, weight, epsilon);
    }
    let [rows, width] = x.dims();
    for_real!(x.dtype(), F, {
        let (x, w) = (HostTensor::held(x), HostTensor::held(weight));
        let (x, w) = (x.slice::<F>(), w.slice::<F>());
        const BLOCK: usize = 16;
        let [y] = write_chunks(rows * width, BLOCK * width, |block, [y]| {
            let x = x[block * BLOCK * width..].chunks(width);
            for (y, x) in y.chunks_mut(width).zip(x) {
                forward_row(y, x, w, epsilon);
            }
        });
        from_values(y, [rows, width])
    })
}

/// Gradients of the rows and of the weight: (`[rows, width]`, `[1, width]`).
pub fn backward(
    dy: &Tensor<2>,
    x: &Tensor<2>,
    weight: &Tensor<2>,
    epsilon: f64,
) -> (Tensor<2>, Tensor<2>) {
    let _span = operation!(
        "rms_norm backward",
        Cost::arrays([dy, x, x, weight, weight])
    );
    #[cfg(feature = "cube")]
    if super::cube::runs(x) {
        return super::cube::rms_norm::backward(dy, x, weight, epsilon);
    }
    if !is_host(x) {
        return backward_formula(dy, x, weight, epsilon);
    }
    let [rows, width] = x.dims();
    for_real!(x.dtype(), F, {
        let (dy, x, w) = (
            HostTensor::held(dy),
            HostTensor::held(x),
            HostTensor::held(weight),
        );
        let (dy, x, w) = (dy.slice::<F>(), x.slice::<F>(), w.slice::<F>());
        let mut dx = vec![F::ZERO; rows * width];
        // Fixed blocks of rows, combined in order: the bits do not depend on the threads.
        const BLOCK: usize = 64;
        let partial: Vec<Vec<F>> = dx
            .par_chunks_mut(BLOCK * width)
            .enumerate()
            .map(|(block, dx)| {
                let mut dw = vec![F::ZERO; width];
                for (i, dx) in dx.chunks_mut(width).enumerate() {
                    let at = (block * BLOCK + i) * width;
                    backward_row(
                        dx,
                        &mut dw,
                        &dy[at..at + width],
                        &x[at..at + width],
                        w,
                        epsilon,
                    );
                }
                dw
            })
            .collect();
        let mut dw = vec![F::ZERO; width];
        for block in &partial {
            for (sum, value) in dw.iter_mut().zip(block) {
                *sum += *value;
            }
        }
        (from_values(dx, [rows, width]), from_values(dw, [1, width]))
    })
}

pub(crate) fn forward_row<F: Real>(y: &mut [F], x: &[F], w: &[F], epsilon: f64) {
    widest(
        #[inline(always)]
        || {
            let scale = inverse_root_mean_square(x, epsilon);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = *x * scale * *w;
            }
        },
    );
}

fn backward_row<F: Real>(dx: &mut [F], dw: &mut [F], dy: &[F], x: &[F], w: &[F], epsilon: f64) {
    widest(
        #[inline(always)]
        || {
            let n = x.len();
            let scale = inverse_root_mean_square(x, epsilon);
            let inner = lane_sum(n, |i| dy[i] * w[i] * x[i]);
            let shrink = inner * scale * scale * scale / F::from_f64(n as f64);
            for i in 0..n {
                dx[i] = dy[i] * w[i] * scale - x[i] * shrink;
                dw[i] += dy[i] * x[i] * scale;
            }
        },
    );
}

#[inline(always)]
fn inverse_root_mean_square<F: Real>(x: &[F], epsilon: f64) -> F {
    let sum = lane_sum(x.len(), |i| x[i] * x[i]);
    F::ONE / (sum / F::from_f64(x.len() as f64) + F::from_f64(epsilon)).sqrt()
}

/// The plain formula, computed in `f32` or wider and returned in the dtype of `x`.
fn forward_formula(x: &Tensor<2>, weight: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let (x, weight) = (widen(x), widen(weight));
    let scale = scale_formula(&x, epsilon);
    (x * scale * weight).cast(dtype)
}

fn backward_formula(
    dy: &Tensor<2>,
    x: &Tensor<2>,
    weight: &Tensor<2>,
    epsilon: f64,
) -> (Tensor<2>, Tensor<2>) {
    let dtype = x.dtype();
    let (dy, x, weight) = (widen(dy), widen(x), widen(weight));
    let width = x.dims()[1] as f64;
    let scale = scale_formula(&x, epsilon);
    let normed = x * scale.clone();
    let dw = (dy.clone() * normed.clone()).sum_dim(0);
    let dn = dy * weight;
    let inner = (dn.clone() * normed.clone()).sum_dim(1).div_scalar(width);
    let dx = (dn - normed * inner) * scale;
    (dx.cast(dtype), dw)
}

fn scale_formula(x: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let width = x.dims()[1] as f64;
    x.clone()
        .square()
        .sum_dim(1)
        .div_scalar(width)
        .add_scalar(epsilon)
        .sqrt()
        .recip()
}

fn widen(tensor: &Tensor<2>) -> Tensor<2> {
    match tensor.dtype() {
        burn::tensor::DType::F64 => tensor.clone(),
        _ => tensor.clone().cast(burn::tensor::DType::F32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, random};

    #[test]
    fn fused_equals_the_formula() {
        for (rows, width) in [(1, 1), (3, 7), (65, 16), (130, 33)] {
            let x = random([rows, width], 1);
            let w = random([1, width], 2);
            let dy = random([rows, width], 3);
            assert_close(
                &forward(&x, &w, 1e-5),
                &forward_formula(&x, &w, 1e-5),
                1e-12,
            );
            let (dx, dw) = backward(&dy, &x, &w, 1e-5);
            let (dx_formula, dw_formula) = backward_formula(&dy, &x, &w, 1e-5);
            assert_close(&dx, &dx_formula, 1e-11);
            assert_close(&dw, &dw_formula, 1e-11);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (x, w, dy) = (random([3, 5], 1), random([1, 5], 2), random([3, 5], 3));
        let (dx, dw) = backward(&dy, &x, &w, 1e-3);
        let loss = |x: &Tensor<2>, w: &Tensor<2>| (forward(x, w, 1e-3) * dy.clone()).sum();
        crate::ops::check::assert_gradient(&x, &dx, |x| loss(x, &w));
        crate::ops::check::assert_gradient(&w, &dw, |w| loss(&x, w));
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn the_kernel_equals_formula_and_loop() {
        use crate::ops::check::{pair, vulkan};
        let Some(device) = vulkan() else { return };
        for (rows, width) in [(1, 1), (1, 576), (3, 7), (65, 16), (130, 33), (40_000, 3)] {
            let (x, cpu_x) = pair(random([rows, width], 1) * 3.0, &device);
            let (w, cpu_w) = pair(random([1, width], 2), &device);
            let (dy, cpu_dy) = pair(random([rows, width], 3), &device);
            let y = forward(&x, &w, 1e-5);
            assert_close(&y, &forward(&cpu_x, &cpu_w, 1e-5), 1e-6);
            assert_close(&y, &forward_formula(&x, &w, 1e-5), 1e-6);
            let (dx, dw) = backward(&dy, &x, &w, 1e-5);
            let (cpu_dx, cpu_dw) = backward(&cpu_dy, &cpu_x, &cpu_w, 1e-5);
            assert_close(&dx, &cpu_dx, 1e-5);
            assert_close(&dw, &cpu_dw, 1e-5);
            let (dx_formula, dw_formula) = backward_formula(&dy, &x, &w, 1e-5);
            assert_close(&dx, &dx_formula, 1e-5);
            assert_close(&dw, &dw_formula, 1e-5);
        }
    }
}

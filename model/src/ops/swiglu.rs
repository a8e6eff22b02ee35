//! The gated activation of the MLP (arXiv 2002.05202): silu(gate) · up with silu(z) = z·σ(z).

use burn::tensor::{Tensor, activation};

use super::host::{HostTensor, from_values, is_host, write_chunks};
use super::real::Real;
use super::simd::widest;
use crate::span::Cost;
use crate::{for_real, operation};

const BLOCK: usize = 4096;

/// silu(`gate`) · `up`, all `[rows, width]`.
pub fn forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    let _span = operation!("swiglu forward", Cost::arrays([gate, up, up]));
    #[cfg(feature = "cube")]
    if super::cube::runs(gate) {
        return super::cube::swiglu::forward(gate, up);
    }
    if !is_host(gate) {
        return activation::silu(gate.clone()) * up.clone();
    }
    for_real!(gate.dtype(), F, {
        let shape = gate.dims();
        let (gate, up) = (HostTensor::held(gate), HostTensor::held(up));
        let (gate, up) = (gate.slice::<F>(), up.slice::<F>());
        let [out] = write_chunks(gate.len(), BLOCK, |block, [out]| {
            let range = block * BLOCK..block * BLOCK + out.len();
            forward_block(out, &gate[range.clone()], &up[range]);
        });
        from_values(out, shape)
    })
}

/// Gradients of (`gate`, `up`).
pub fn backward(dy: &Tensor<2>, gate: &Tensor<2>, up: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let _span = operation!("swiglu backward", Cost::arrays([dy, gate, gate, up, up]));
    #[cfg(feature = "cube")]
    if super::cube::runs(gate) {
        return super::cube::swiglu::backward(dy, gate, up);
    }
    if !is_host(gate) {
        return backward_formula(dy, gate, up);
    }
    for_real!(gate.dtype(), F, {
        let shape = gate.dims();
        let (dy, gate, up) = (
            HostTensor::held(dy),
            HostTensor::held(gate),
            HostTensor::held(up),
        );
        let (dy, gate, up) = (dy.slice::<F>(), gate.slice::<F>(), up.slice::<F>());
        let [d_gate, d_up] = write_chunks(gate.len(), BLOCK, |block, [d_gate, d_up]| {
            let range = block * BLOCK..block * BLOCK + d_gate.len();
            backward_block(
                d_gate,
                d_up,
                &dy[range.clone()],
                &gate[range.clone()],
                &up[range],
            );
        });
        (from_values(d_gate, shape), from_values(d_up, shape))
    })
}

pub(crate) fn forward_block<F: Real>(out: &mut [F], gate: &[F], up: &[F]) {
    widest(
        #[inline(always)]
        || {
            for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                *out = *g / (F::ONE + (-*g).exp()) * *u;
            }
        },
    );
}

fn backward_block<F: Real>(d_gate: &mut [F], d_up: &mut [F], dy: &[F], gate: &[F], up: &[F]) {
    widest(
        #[inline(always)]
        || {
            for i in 0..gate.len() {
                let sigmoid = F::ONE / (F::ONE + (-gate[i]).exp());
                let silu = gate[i] * sigmoid;
                d_up[i] = dy[i] * silu;
                d_gate[i] = dy[i] * up[i] * (sigmoid + silu * (F::ONE - sigmoid));
            }
        },
    );
}

fn backward_formula(dy: &Tensor<2>, gate: &Tensor<2>, up: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let sigmoid = activation::sigmoid(gate.clone());
    let silu = gate.clone() * sigmoid.clone();
    let slope = sigmoid.clone() + silu.clone() * (sigmoid.neg().add_scalar(1.0));
    (dy.clone() * up.clone() * slope, dy.clone() * silu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, random};

    #[test]
    fn fused_equals_the_formula() {
        for shape in [[1, 1], [3, 7], [129, 65]] {
            let (gate, up, dy) = (random(shape, 1) * 8.0, random(shape, 2), random(shape, 3));
            let formula = activation::silu(gate.clone()) * up.clone();
            assert_close(&forward(&gate, &up), &formula, 1e-12);
            let (a, b) = backward(&dy, &gate, &up);
            let (c, d) = backward_formula(&dy, &gate, &up);
            assert_close(&a, &c, 1e-12);
            assert_close(&b, &d, 1e-12);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (gate, up, dy) = (random([2, 5], 1), random([2, 5], 2), random([2, 5], 3));
        let (d_gate, d_up) = backward(&dy, &gate, &up);
        let loss = |g: &Tensor<2>, u: &Tensor<2>| (forward(g, u) * dy.clone()).sum();
        assert_gradient(&gate, &d_gate, |g| loss(g, &up));
        assert_gradient(&up, &d_up, |u| loss(&gate, u));
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn the_kernel_equals_formula_and_loop() {
        use crate::ops::check::{pair, vulkan};
        let Some(device) = vulkan() else { return };
        for shape in [[1, 1], [3, 7], [129, 65], [1000, 300]] {
            let (gate, cpu_gate) = pair(random(shape, 1) * 20.0, &device);
            let (up, cpu_up) = pair(random(shape, 2), &device);
            let (dy, cpu_dy) = pair(random(shape, 3), &device);
            let y = forward(&gate, &up);
            assert_close(&y, &forward(&cpu_gate, &cpu_up), 1e-6);
            assert_close(&y, &(activation::silu(gate.clone()) * up.clone()), 1e-6);
            let (d_gate, d_up) = backward(&dy, &gate, &up);
            let (cpu_d_gate, cpu_d_up) = backward(&cpu_dy, &cpu_gate, &cpu_up);
            assert_close(&d_gate, &cpu_d_gate, 1e-5);
            assert_close(&d_up, &cpu_d_up, 1e-5);
            let (d_gate_formula, d_up_formula) = backward_formula(&dy, &gate, &up);
            assert_close(&d_gate, &d_gate_formula, 1e-5);
            assert_close(&d_up, &d_up_formula, 1e-5);
        }
    }
}

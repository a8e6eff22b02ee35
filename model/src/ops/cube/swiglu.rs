//! silu(gate) · up and its gradients, one pass over the elements each.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::{UNITS, buffer, element, empty, tensor, workgroups_for_elements};

/// As [`crate::ops::swiglu::forward`].
pub fn forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    let shape = gate.dims();
    let (gate, up) = (buffer(gate), buffer(up));
    let y = empty(&gate, shape, gate.dtype);
    let elements = shape[0] * shape[1];
    forward_kernel::launch(
        &y.client,
        workgroups_for_elements(elements),
        CubeDim::new_1d(UNITS),
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        elements,
        element(y.dtype),
    );
    tensor(y)
}

/// As [`crate::ops::swiglu::backward`].
pub fn backward(dy: &Tensor<2>, gate: &Tensor<2>, up: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let shape = gate.dims();
    let (dy, gate, up) = (buffer(dy), buffer(gate), buffer(up));
    let (d_gate, d_up) = (
        empty(&gate, shape, gate.dtype),
        empty(&gate, shape, gate.dtype),
    );
    let elements = shape[0] * shape[1];
    backward_kernel::launch(
        &d_gate.client,
        workgroups_for_elements(elements),
        CubeDim::new_1d(UNITS),
        dy.into_buffer_arg(),
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        d_gate.clone().into_buffer_arg(),
        d_up.clone().into_buffer_arg(),
        elements,
        element(d_gate.dtype),
    );
    (tensor(d_gate), tensor(d_up))
}

#[cube(launch)]
fn forward_kernel<F: Float>(
    gate: &[F],
    up: &[F],
    y: &mut [F],
    elements: usize,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= elements {
        terminate!();
    }
    let g = f32::cast_from(gate[i]);
    y[i] = F::cast_from(g / (1.0f32 + (-g).exp()) * f32::cast_from(up[i]));
}

#[cube(launch)]
fn backward_kernel<F: Float>(
    dy: &[F],
    gate: &[F],
    up: &[F],
    d_gate: &mut [F],
    d_up: &mut [F],
    elements: usize,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= elements {
        terminate!();
    }
    let (g, d) = (f32::cast_from(gate[i]), f32::cast_from(dy[i]));
    let sigmoid = 1.0f32 / (1.0f32 + (-g).exp());
    let silu = g * sigmoid;
    d_up[i] = F::cast_from(d * silu);
    d_gate[i] = F::cast_from(d * f32::cast_from(up[i]) * (sigmoid + silu * (1.0f32 - sigmoid)));
}

//! The rotation of every head in place, a thread a pair.

use burn::tensor::Tensor;
use cubecl::prelude::*;

use super::{UNITS, buffer, element, tensor, workgroups_for_elements, writable};

/// As [`crate::ops::rope::Rotation::forward`], or its backward pass.
pub fn turn(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>, backwards: bool) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let half = cos.dims()[1];
    let (x, cos, sin) = (writable(x), buffer(cos), buffer(sin));
    let types = [element(x.dtype), element(cos.dtype)];
    turn_kernel::launch(
        &x.client.clone(),
        workgroups_for_elements(tokens * width / 2),
        CubeDim::new_1d(UNITS),
        x.clone().into_buffer_arg(),
        cos.into_buffer_arg(),
        sin.into_buffer_arg(),
        tokens * width / 2,
        width / 2,
        half,
        if backwards { -1.0 } else { 1.0 },
        types,
    );
    tensor(x)
}

#[cube(launch)]
fn turn_kernel<F: Float, A: Float>(
    x: &mut [F],
    cos: &[A],
    sin: &[A],
    pairs: usize,
    pairs_of_token: usize,
    half: usize,
    sign: f32,
    #[define(F, A)] _types: [ElemType; 2],
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
    let (token, of_token) = (pair / pairs_of_token, pair % pairs_of_token);
    let (head, i) = (of_token / half, of_token % half);
    let at = 2 * (token * pairs_of_token + head * half) + i;
    let a = f32::cast_from(x[at]);
    let b = f32::cast_from(x[at + half]);
    let cos = f32::cast_from(cos[token * half + i]);
    let sin = f32::cast_from(sin[token * half + i]) * sign;
    x[at] = F::cast_from(a * cos - b * sin);
    x[at + half] = F::cast_from(b * cos + a * sin);
}

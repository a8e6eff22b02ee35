//! AdamW in place over a parameter, a thread an element.

use burn::tensor::Tensor;
use cubecl::prelude::*;
use model::ops::cube::{UNITS, buffer, element, tensor, workgroups_for_elements, writable};

use crate::optim::adamw::{Moments, Update};
use crate::optim::verdict::Verdict;

/// One update, scaled as `verdict` says; none where it halts.
pub(in crate::optim) fn apply(
    update: &Update,
    value: Tensor<2>,
    moments: Moments,
    gradient: &Tensor<2>,
    verdict: &Verdict,
) -> (Tensor<2>, Moments) {
    let (value, gradient) = (writable(value), buffer(gradient));
    let (first, second) = (writable(moments.first), writable(moments.second));
    let elements = value.meta.num_elements();
    let numbers = NumbersLaunch::new(
        update.beta[0] as f32,
        update.beta[1] as f32,
        (1.0 - update.beta[0]) as f32,
        (1.0 - update.beta[1]) as f32,
        update.step_size as f32,
        update.second_scale as f32,
        update.eps as f32,
        update.keep as f32,
    );
    let types = [element(value.dtype), element(gradient.dtype)];
    adamw_kernel::launch(
        &value.client,
        workgroups_for_elements(elements),
        CubeDim::new_1d(UNITS),
        value.clone().into_buffer_arg(),
        first.clone().into_buffer_arg(),
        second.clone().into_buffer_arg(),
        gradient.into_buffer_arg(),
        buffer(&verdict.0).into_buffer_arg(),
        elements,
        numbers,
        types,
    );
    let moments = Moments {
        first: tensor(first),
        second: tensor(second),
    };
    (tensor(value), moments)
}

/// Those of [`Update`].
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Numbers {
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    step_size: f32,
    second_scale: f32,
    eps: f32,
    keep: f32,
}

#[cube(launch)]
fn adamw_kernel<F: Float, G: Float>(
    value: &mut [F],
    first: &mut [F],
    second: &mut [F],
    gradient: &[G],
    verdict: &[f32],
    elements: usize,
    numbers: Numbers,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if i >= elements || verdict[2] > 0.0f32 {
        terminate!();
    }
    let g = f32::cast_from(gradient[i]) * verdict[1];
    let m = f32::cast_from(first[i]) * numbers.beta1 + g * numbers.rest1;
    let v = f32::cast_from(second[i]) * numbers.beta2 + g * g * numbers.rest2;
    let root = v.sqrt() * numbers.second_scale + numbers.eps;
    first[i] = F::cast_from(m);
    second[i] = F::cast_from(v);
    let kept = f32::cast_from(value[i]) * numbers.keep;
    value[i] = F::cast_from(kept - numbers.step_size * m / root);
}

//! The kernel that judges a step: one workgroup, because the numbers are few.

use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;
use model::ops::cube::reduce::sum_of_units;
use model::ops::cube::{UNITS, buffer, empty, tensor, upload};

use super::norm::square_sums_of_chunks;
use crate::optim::verdict::{HEADER, Verdict};

/// Of `gradients`, and of the sums of the losses `[losses]` with the weights that make them the total. It halts where
/// `before` did.
pub fn judge(
    gradients: &[&Tensor<2>],
    loss_sums: &Tensor<1>,
    loss_weights: &[f32],
    clip_norm: f64,
    before: Option<&Verdict>,
) -> Verdict {
    let sums = buffer(loss_sums);
    let chunks = square_sums_of_chunks(gradients);
    let chunks = chunks.unwrap_or_else(|| upload(&sums, &[0.0_f32]));
    let before = match before {
        Some(before) => buffer(&before.0),
        None => upload(&sums, &[0.0_f32; HEADER]),
    };
    let values = empty(&sums, [HEADER + loss_weights.len()], DType::F32);
    let count = chunks.meta.num_elements();
    verdict_kernel::launch(
        &values.client,
        CubeCount::new_single(),
        CubeDim::new_1d(UNITS),
        chunks.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        upload(&sums, loss_weights).into_buffer_arg(),
        before.into_buffer_arg(),
        values.clone().into_buffer_arg(),
        count,
        loss_weights.len(),
        clip_norm as f32,
    );
    Verdict(Box::new(tensor(values)))
}

#[cube(launch)]
fn verdict_kernel(
    chunks: &[f32],
    loss_sums: &[f32],
    loss_weights: &[f32],
    before: &[f32],
    values: &mut [f32],
    count: usize,
    losses: usize,
    clip_norm: f32,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < count {
        squares += chunks[i];
        i += CUBE_DIM as usize;
    }
    let squares = sum_of_units(squares, &mut shared);
    if UNIT_POS == 0 {
        let norm = squares.sqrt();
        let mut loss = 0.0f32;
        for i in 0..losses {
            loss += loss_weights[i] * loss_sums[i];
            values[i + HEADER] = loss_sums[i];
        }
        let ruined = norm.is_nan() || norm.is_inf() || loss.is_nan() || loss.is_inf();
        let halted = ruined || before[2] > 0.0f32;
        values[0] = norm;
        values[1] = select(norm > clip_norm, clip_norm / norm, 1.0f32);
        values[2] = select(halted, 1.0f32, 0.0f32);
    }
}

//! The values of many rows added to the sums of the losses, in an order that never changes.

use std::ops::Range;

use burn::tensor::Tensor;
use cubecl::prelude::*;
use model::ops::cube::reduce::sum_of_units;
use model::ops::cube::{CubeTensor, UNITS, tensor, workgroups, writable};

/// Adds each column of `row_values` `[rows, slots]` to its slot of `sums`.
pub(super) fn add_rows(
    row_values: &CubeTensor,
    rows: usize,
    slots: Range<usize>,
    sums: &mut Tensor<1>,
) {
    let empty = Tensor::empty([1], &sums.device());
    let buffer = writable(std::mem::replace(sums, empty));
    add_rows_kernel::launch(
        &buffer.client,
        workgroups(slots.len()),
        CubeDim::new_1d(UNITS),
        row_values.clone().into_buffer_arg(),
        buffer.clone().into_buffer_arg(),
        rows,
        slots.len(),
        slots.start,
    );
    *sums = tensor(buffer);
}

#[cube(launch)]
fn add_rows_kernel(
    row_values: &[f32],
    sums: &mut [f32],
    rows: usize,
    slots: usize,
    first_slot: usize,
) {
    let slot = CUBE_POS;
    if slot >= slots {
        terminate!();
    }
    let mut shared = Shared::new_slice(UNITS as usize);
    let mut sum = 0.0f32;
    let mut row = UNIT_POS as usize;
    while row < rows {
        sum += row_values[row * slots + slot];
        row += CUBE_DIM as usize;
    }
    let sum = sum_of_units(sum, &mut shared);
    if UNIT_POS == 0 {
        sums[first_slot + slot] += sum;
    }
}

//! RMS norm of a row a workgroup. The weight's gradient is a sum over rows: of fixed blocks first, then of the blocks in
//! order.

use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;

use super::reduce::sum_of_units;
use super::{UNITS, buffer, element, empty, tensor, workgroups, workgroups_for_elements};

/// Rows whose part of the weight's gradient is summed by one thread.
const BLOCK: usize = 64;

/// As [`crate::ops::rms_norm::forward`].
pub fn forward(x: &Tensor<2>, weight: &Tensor<2>, epsilon: f64) -> Tensor<2> {
    let [rows, width] = x.dims();
    let (x, weight) = (buffer(x), buffer(weight));
    let y = empty(&x, [rows, width], x.dtype);
    let types = [element(x.dtype), element(weight.dtype)];
    forward_kernel::launch(
        &x.client.clone(),
        workgroups(rows),
        CubeDim::new_1d(UNITS),
        x.into_buffer_arg(),
        weight.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        rows,
        width,
        epsilon as f32,
        types,
    );
    tensor(y)
}

/// As [`crate::ops::rms_norm::backward`]; the weight's gradient is `f32`.
pub fn backward(
    dy: &Tensor<2>,
    x: &Tensor<2>,
    weight: &Tensor<2>,
    epsilon: f64,
) -> (Tensor<2>, Tensor<2>) {
    let [rows, width] = x.dims();
    let (dy, x, weight) = (buffer(dy), buffer(x), buffer(weight));
    let client = x.client.clone();
    let units = CubeDim::new_1d(UNITS);
    let types = [element(x.dtype), element(weight.dtype)];
    let dx = empty(&x, [rows, width], x.dtype);
    let scales = empty(&x, [rows], DType::F32);
    backward_kernel::launch(
        &client,
        workgroups(rows),
        units,
        dy.clone().into_buffer_arg(),
        x.clone().into_buffer_arg(),
        weight.into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        scales.clone().into_buffer_arg(),
        rows,
        width,
        epsilon as f32,
        types,
    );
    let blocks = rows.div_ceil(BLOCK);
    let partial = empty(&x, [blocks, width], DType::F32);
    let dw = empty(&x, [1, width], DType::F32);
    weight_gradient_kernel::launch(
        &client,
        workgroups_for_elements(blocks * width),
        units,
        dy.into_buffer_arg(),
        x.clone().into_buffer_arg(),
        scales.into_buffer_arg(),
        partial.clone().into_buffer_arg(),
        rows,
        width,
        BLOCK,
        element(x.dtype),
    );
    sum_blocks_kernel::launch(
        &client,
        workgroups_for_elements(width),
        units,
        partial.into_buffer_arg(),
        dw.clone().into_buffer_arg(),
        blocks,
        width,
    );
    (tensor(dx), tensor(dw))
}

#[cube(launch)]
fn forward_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    y: &mut [F],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut shared = Shared::new_slice(UNITS as usize);
    let scale = inverse_root_mean_square::<F>(x, start, width, epsilon, &mut shared);
    let mut i = UNIT_POS as usize;
    while i < width {
        let normed = f32::cast_from(x[start + i]) * scale;
        y[start + i] = F::cast_from(normed * f32::cast_from(weight[i]));
        i += CUBE_DIM as usize;
    }
}

#[cube(launch)]
fn backward_kernel<F: Float, W: Float>(
    dy: &[F],
    x: &[F],
    weight: &[W],
    dx: &mut [F],
    scales: &mut [f32],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut shared = Shared::new_slice(UNITS as usize);
    let scale = inverse_root_mean_square::<F>(x, start, width, epsilon, &mut shared);
    let mut inner = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let d_normed = f32::cast_from(dy[start + i]) * f32::cast_from(weight[i]);
        inner += d_normed * f32::cast_from(x[start + i]);
        i += CUBE_DIM as usize;
    }
    let inner = sum_of_units(inner, &mut shared);
    let shrink = inner * scale * scale * scale / f32::cast_from(width as u32);
    let mut i = UNIT_POS as usize;
    while i < width {
        let d_normed = f32::cast_from(dy[start + i]) * f32::cast_from(weight[i]);
        dx[start + i] = F::cast_from(d_normed * scale - f32::cast_from(x[start + i]) * shrink);
        i += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        scales[row] = scale;
    }
}

#[cube]
fn inverse_root_mean_square<F: Float>(
    x: &[F],
    start: usize,
    width: usize,
    epsilon: f32,
    shared: &mut Shared<[f32]>,
) -> f32 {
    let mut squares = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[start + i]);
        squares += value * value;
        i += CUBE_DIM as usize;
    }
    let squares = sum_of_units(squares, shared);
    1.0f32 / (squares / f32::cast_from(width as u32) + epsilon).sqrt()
}

/// `partial[block, column]`, a thread each.
#[cube(launch)]
fn weight_gradient_kernel<F: Float>(
    dy: &[F],
    x: &[F],
    scales: &[f32],
    partial: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] block_rows: usize,
    #[define(F)] _type: ElemType,
) {
    let position = ABSOLUTE_POS;
    if position >= partial.len() {
        terminate!();
    }
    let (block, column) = (position / width, position % width);
    let first = block * block_rows;
    let last = min(first + block_rows, rows);
    let mut sum = 0.0f32;
    let mut row = first;
    while row < last {
        let at = row * width + column;
        sum += f32::cast_from(dy[at]) * f32::cast_from(x[at]) * scales[row];
        row += 1;
    }
    partial[position] = sum;
}

/// The sum of each column's blocks, from the first to the last.
#[cube(launch)]
fn sum_blocks_kernel(partial: &[f32], sums: &mut [f32], blocks: usize, width: usize) {
    let column = ABSOLUTE_POS;
    if column >= width {
        terminate!();
    }
    let mut sum = 0.0f32;
    for block in 0..blocks {
        sum += partial[block * width + column];
    }
    sums[column] = sum;
}

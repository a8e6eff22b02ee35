//! Losses between hidden states, a workgroup a row.

use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;
use model::ops::cube::reduce::sum_of_units;
use model::ops::cube::{UNITS, buffer, element, empty, tensor, upload, workgroups};

use super::sums::add_rows;
use crate::loss::HiddenLoss;
use crate::loss::hidden::SMALLEST_NORM;

/// As [`crate::loss::hidden_rows`]: the gradient by `student`, the value added to `sums[slot]`.
pub fn hidden_rows(
    loss: HiddenLoss,
    student: &Tensor<2>,
    teacher: &Tensor<2>,
    supervised: &[bool],
    scale: f64,
    (sums, slot): (&mut Tensor<1>, usize),
) -> Tensor<2> {
    let [rows, width] = student.dims();
    let (student, teacher) = (buffer(student), buffer(teacher));
    let supervised: Vec<u32> = supervised.iter().map(|&counts| u32::from(counts)).collect();
    let gradient = empty(&student, [rows, width], student.dtype);
    let row_values = empty(&student, [rows, 1], DType::F32);
    let types = [element(student.dtype), element(teacher.dtype)];
    hidden_kernel::launch(
        &gradient.client,
        workgroups(rows),
        CubeDim::new_1d(UNITS),
        student.into_buffer_arg(),
        teacher.into_buffer_arg(),
        upload(&gradient, &supervised).into_buffer_arg(),
        gradient.clone().into_buffer_arg(),
        row_values.clone().into_buffer_arg(),
        rows,
        width,
        scale as f32,
        SMALLEST_NORM as f32,
        loss == HiddenLoss::Cosine,
        types,
    );
    add_rows(&row_values, rows, slot..slot + 1, sums);
    tensor(gradient)
}

#[cube(launch)]
fn hidden_kernel<F: Float, T: Float>(
    student: &[F],
    teacher: &[T],
    supervised: &[u32],
    gradient: &mut [F],
    row_values: &mut [f32],
    rows: usize,
    width: usize,
    scale: f32,
    smallest_norm: f32,
    #[comptime] cosine: bool,
    #[define(F, T)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let counts = supervised[row] > 0;
    let start = row * width;
    let mut shared = Shared::new_slice(UNITS as usize);
    let mut aa = 0.0f32;
    let mut bb = 0.0f32;
    let mut ab = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let a = f32::cast_from(student[start + i]);
        let b = f32::cast_from(teacher[start + i]);
        if cosine {
            aa += a * a;
            bb += b * b;
            ab += a * b;
        } else {
            aa += (a - b) * (a - b);
        }
        i += CUBE_DIM as usize;
    }
    let aa = sum_of_units(aa, &mut shared);
    // Of the cosine the gradient is of_a · a + of_b · b, of the mean square of_a · (a − b).
    let mut value = aa / f32::cast_from(width as u32);
    let mut of_a = 2.0f32 / f32::cast_from(width as u32);
    let mut of_b = 0.0f32;
    if cosine {
        let bb = sum_of_units(bb, &mut shared);
        let ab = sum_of_units(ab, &mut shared);
        let norms = aa.sqrt() * bb.sqrt();
        let no_direction = aa.sqrt() < smallest_norm || bb.sqrt() < smallest_norm;
        let cos = ab / norms;
        value = select(no_direction, 1.0f32, 1.0f32 - cos);
        of_a = select(no_direction, 0.0f32, cos / aa);
        of_b = select(no_direction, 0.0f32, -1.0f32 / norms);
    }
    let mut i = UNIT_POS as usize;
    while i < width {
        let a = f32::cast_from(student[start + i]);
        let b = f32::cast_from(teacher[start + i]);
        let mut d = of_a * (a - b);
        if cosine {
            d = of_a * a + of_b * b;
        }
        let d = d * scale;
        gradient[start + i] = F::cast_from(select(counts, d, 0.0f32));
        i += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        row_values[row] = select(counts, value, 0.0f32);
    }
}

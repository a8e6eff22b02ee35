//! All rows of a chunk of logits.

use burn::tensor::{DType, Tensor};
use cubecl::prelude::*;
use model::ops::cube::{UNITS, buffer, element, empty, tensor, upload, workgroups, writable};

use super::plan::Plan;
use super::row::{RowShapeLaunch, row_kernel};
use super::sums::add_rows;
use crate::loss::rows::check_labels;
use crate::loss::{Labels, LossEntries, LossRowsError, Vocabulary};

/// As [`crate::loss::loss_rows`], where every position is supervised: the gradient in place of `logits`
/// `[rows, vocabulary.student]`, the values added to `sums`. Of `teacher` only the first `vocabulary.teacher` columns, and of
/// those as many as it has, can be probable.
pub fn loss_rows(
    entries: &LossEntries,
    vocabulary: Vocabulary,
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    labels: Labels,
    scale: f64,
    sums: &mut Tensor<1>,
) -> Result<Tensor<2>, LossRowsError> {
    check_labels(entries, vocabulary.valid, labels)?;
    if entries.needs_teacher_logits() && teacher.is_none() {
        return Err(LossRowsError::NoTeacher);
    }
    let rows = logits.dims()[0];
    let logits = writable(logits);
    let plan = Plan::new(entries);
    let teacher_width = teacher.as_ref().map_or(1, |t| t.dims()[1]);
    let teacher = match &teacher {
        Some(teacher) if plan.teacher => buffer(teacher),
        _ => empty(&logits, [1], DType::F32),
    };
    let targets: &[u32] = match entries.needs_labels() {
        true => labels.targets,
        false => &[],
    };
    let row_values = empty(&logits, [rows, plan.slots], DType::F32);
    let shape = RowShapeLaunch::new(
        rows,
        vocabulary.valid,
        vocabulary.student,
        teacher_width,
        vocabulary.teacher.min(teacher_width),
        scale as f32,
        f32::INFINITY,
        f32::NAN,
    );
    let types = [element(logits.dtype), element(teacher.dtype)];
    row_kernel::launch(
        &logits.client,
        workgroups(rows),
        CubeDim::new_1d(UNITS),
        logits.clone().into_buffer_arg(),
        teacher.into_buffer_arg(),
        upload(&logits, targets).into_buffer_arg(),
        row_values.clone().into_buffer_arg(),
        shape,
        plan.clone(),
        types,
    );
    add_rows(&row_values, rows, 0..plan.slots, sums);
    Ok(tensor(logits))
}

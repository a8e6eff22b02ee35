//! The kernel of one row: the passes of [`crate::loss::row`], each shared by all losses, by the threads of a workgroup.

use cubecl::prelude::*;
use model::ops::cube::UNITS;
use model::ops::cube::reduce::{largest_of_units, sum_of_units};

use super::column::column;
use super::plan::{Kind, Plan};

/// Stands in for −∞; logits at or below it count as −∞.
const MASKED: f32 = -1e30;

/// What the kernel knows beside the logits.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct RowShape {
    pub rows: usize,
    /// Columns that count; the rest of the gradient is 0.
    pub valid: usize,
    pub student_width: usize,
    pub teacher_width: usize,
    /// Columns in which the teacher can have any probability.
    pub teacher_columns: usize,
    pub scale: f32,
    /// Constants that shader languages have no literals for.
    pub infinity: f32,
    pub not_a_number: f32,
}

/// The student's logits become their gradient; one value a row and listed loss.
#[cube(launch)]
pub(super) fn row_kernel<F: Float, T: Float>(
    student: &mut [F],
    teacher: &[T],
    labels: &[u32],
    row_values: &mut [f32],
    shape: RowShape,
    #[comptime] plan: Plan,
    #[define(F, T)] _types: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= shape.rows {
        terminate!();
    }
    let groups = comptime!(plan.groups.len());
    let terms = comptime!(plan.terms.len());
    let with_labels = comptime!(!plan.labels.is_empty());
    let with_teacher = comptime!(plan.teacher);
    let unit = UNIT_POS as usize;
    let start = row * shape.student_width;
    let teacher_start = row * shape.teacher_width;
    let mut shared = Shared::new_slice(UNITS as usize);

    let mut label = shape.student_width;
    let mut label_logit = 0.0f32;
    if with_labels {
        label = labels[row] as usize;
        label_logit = f32::cast_from(student[start + label]);
    }

    // The largest logits, and whether one side alone has a column at −∞.
    let mut student_max = MASKED.runtime();
    let mut teacher_max = MASKED.runtime();
    let mut student_lacks = 0.0f32;
    let mut teacher_lacks = 0.0f32;
    let mut c = unit;
    while c < shape.valid {
        let s = masked(f32::cast_from(student[start + c]));
        student_max = select(s > student_max, s, student_max);
        if with_teacher {
            let t = teacher_logit::<T>(teacher, teacher_start, c, shape.teacher_columns);
            teacher_max = select(t > teacher_max, t, teacher_max);
            if s <= MASKED && t > MASKED {
                student_lacks = 1.0f32;
            }
            if t <= MASKED && s > MASKED {
                teacher_lacks = 1.0f32;
            }
        }
        c += CUBE_DIM as usize;
    }
    // A row without a finite logit has no distribution.
    let student_max = largest_of_units(student_max, &mut shared);
    let student_max = select(student_max <= MASKED, shape.not_a_number, student_max);
    let mut teacher_largest = 0.0f32;
    if with_teacher {
        let largest = largest_of_units(teacher_max, &mut shared);
        teacher_largest = select(largest <= MASKED, shape.not_a_number, largest);
        student_lacks = largest_of_units(student_lacks, &mut shared);
        teacher_lacks = largest_of_units(teacher_lacks, &mut shared);
    }

    // Sums of exponentials, of every temperature.
    let mut student_sums = Array::<f32>::new(groups);
    let mut teacher_sums = Array::<f32>::new(groups);
    #[unroll]
    for g in 0..groups {
        student_sums[g] = 0.0f32;
        teacher_sums[g] = 0.0f32;
    }
    let mut c = unit;
    while c < shape.valid {
        let s = masked(f32::cast_from(student[start + c])) - student_max;
        let mut t = 0.0f32;
        if with_teacher {
            t = teacher_logit::<T>(teacher, teacher_start, c, shape.teacher_columns)
                - teacher_largest;
        }
        #[unroll]
        for g in 0..groups {
            let inverse = comptime!(plan.groups[g].inverse_temperature.value()).runtime();
            student_sums[g] += (s * inverse).exp();
            if comptime!(plan.groups[g].teacher) {
                teacher_sums[g] += (t * inverse).exp();
            }
        }
        c += CUBE_DIM as usize;
    }
    let mut log_sums = Array::<f32>::new(groups);
    let mut ratio_offsets = Array::<f32>::new(groups);
    #[unroll]
    for g in 0..groups {
        let sum = sum_of_units(student_sums[g], &mut shared);
        student_sums[g] = 1.0f32 / sum;
        log_sums[g] = sum.ln();
        ratio_offsets[g] = 0.0f32;
        if comptime!(plan.groups[g].teacher) {
            let teacher_sum = sum_of_units(teacher_sums[g], &mut shared);
            teacher_sums[g] = 1.0f32 / teacher_sum;
            ratio_offsets[g] = sum.ln() - teacher_sum.ln();
        }
    }

    // Means of q·h, where they are not known.
    let mut means = Array::<f32>::new(comptime!(terms.max(1)));
    #[unroll]
    for i in 0..terms {
        means[i] = 0.0f32;
    }
    if comptime!(plan.needs_means()) {
        let mut c = unit;
        while c < shape.valid {
            let s = masked(f32::cast_from(student[start + c])) - student_max;
            let t = teacher_logit::<T>(teacher, teacher_start, c, shape.teacher_columns)
                - teacher_largest;
            #[unroll]
            for i in 0..terms {
                let term = comptime!(plan.terms[i].clone());
                let g = comptime!(term.group);
                if comptime!(term.known_mean.is_none()) {
                    let inverse = comptime!(plan.groups[g].inverse_temperature.value()).runtime();
                    let q = (s * inverse).exp() * student_sums[g];
                    let p = (t * inverse).exp() * teacher_sums[g];
                    let log_ratio = (s - t) * inverse - ratio_offsets[g];
                    means[i] += column(p, q, log_ratio, term).qh;
                }
            }
            c += CUBE_DIM as usize;
        }
        #[unroll]
        for i in 0..terms {
            if comptime!(plan.terms[i].known_mean.is_none()) {
                means[i] = sum_of_units(means[i], &mut shared);
            }
        }
    }
    #[unroll]
    for i in 0..terms {
        let known = comptime!(plan.terms[i].known_mean.map(|mean| mean.value()));
        if comptime!(known.is_some()) {
            means[i] = comptime!(known.unwrap_or(0.0)).runtime();
        }
    }

    // The gradient, and the values that are left.
    let mut values = Array::<f32>::new(comptime!(terms.max(1)));
    #[unroll]
    for i in 0..terms {
        values[i] = 0.0f32;
    }
    let mut c = unit;
    while c < shape.valid {
        let s = masked(f32::cast_from(student[start + c])) - student_max;
        let mut t = 0.0f32;
        if with_teacher {
            t = teacher_logit::<T>(teacher, teacher_start, c, shape.teacher_columns)
                - teacher_largest;
        }
        let mut gradient = 0.0f32;
        #[unroll]
        for i in 0..terms {
            let term = comptime!(plan.terms[i].clone());
            let g = comptime!(term.group);
            let inverse = comptime!(plan.groups[g].inverse_temperature.value()).runtime();
            let factor = comptime!(term.gradient_factor.value()).runtime();
            let q = (s * inverse).exp() * student_sums[g];
            let p = (t * inverse).exp() * teacher_sums[g];
            let log_ratio = (s - t) * inverse - ratio_offsets[g];
            let column = column(p, q, log_ratio, term);
            values[i] += column.f;
            gradient += factor * shape.scale * (column.qh - q * means[i]);
        }
        #[unroll]
        for i in 0..comptime!(plan.labels.len()) {
            let g = comptime!(plan.labels[i].group);
            let inverse = comptime!(plan.groups[g].inverse_temperature.value()).runtime();
            let weight = comptime!(plan.labels[i].weight.value()).runtime();
            let q = (s * inverse).exp() * student_sums[g];
            gradient += weight * shape.scale * (q - select(c == label, 1.0f32, 0.0f32));
        }
        student[start + c] = F::cast_from(gradient);
        c += CUBE_DIM as usize;
    }
    let mut c = shape.valid + unit;
    while c < shape.student_width {
        student[start + c] = F::cast_from(0.0f32);
        c += CUBE_DIM as usize;
    }

    let to = row * comptime!(plan.slots);
    #[unroll]
    for i in 0..terms {
        let term = comptime!(plan.terms[i].clone());
        let sum = sum_of_units(values[i], &mut shared);
        if unit == 0 {
            let factor = comptime!(term.value_factor.value()).runtime();
            let mut value = factor * sum;
            if comptime!(term.kind == Kind::ForwardKl) {
                value = select(student_lacks > 0.0f32, shape.infinity, value);
            }
            if comptime!(term.kind == Kind::ReverseKl) {
                value = select(teacher_lacks > 0.0f32, shape.infinity, value);
            }
            row_values[to + comptime!(term.slot)] = value;
        }
    }
    if unit == 0 {
        #[unroll]
        for i in 0..comptime!(plan.labels.len()) {
            let g = comptime!(plan.labels[i].group);
            let value = log_sums[g] + (student_max - label_logit);
            row_values[to + comptime!(plan.labels[i].slot)] =
                select(label_logit <= MASKED, shape.infinity, value);
        }
        #[unroll]
        for slot in 0..comptime!(plan.slots) {
            if comptime!(!plan.has(slot)) {
                row_values[to + slot] = 0.0f32;
            }
        }
    }
}

/// −∞ becomes finite, so that differences stay numbers; NaN stays.
#[cube]
fn masked(logit: f32) -> f32 {
    select(logit < MASKED, MASKED.runtime(), logit)
}

#[cube]
fn teacher_logit<T: Float>(teacher: &[T], start: usize, column: usize, columns: usize) -> f32 {
    let mut logit = MASKED.runtime();
    if column < columns {
        logit = masked(f32::cast_from(teacher[start + column]));
    }
    logit
}

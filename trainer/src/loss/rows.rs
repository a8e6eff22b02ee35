//! Many positions at once, in parallel, with the same bits on any number of threads.

use rayon::prelude::*;
use thiserror::Error;

use super::entries::LossEntries;
use super::row::accumulate_row;
use model::ops::real::Real;

/// Widths of the logits of student and teacher, which pad their heads as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Columns of the student's head.
    pub student: usize,
    /// Columns of the teacher's head; not looked at without a teacher.
    pub teacher: usize,
    /// The first `valid` columns are real tokens that both know; all others have a probability of exactly 0.
    pub valid: usize,
}

/// What is supervised: one label and one flag a position.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// The true token of each position. Not looked at where unsupervised, nor without a cross-entropy term.
    pub targets: &'a [u32],
    /// Positions that count; the others get a zero gradient and no value.
    pub supervised: &'a [bool],
}

/// Inputs that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LossRowsError {
    #[error("{what}: expected {expected} numbers, got {got}")]
    Length {
        what: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("{valid} shared tokens, but the {side} has only {columns} columns")]
    TooFewColumns {
        side: &'static str,
        columns: usize,
        valid: usize,
    },
    #[error("the losses compare with a teacher, but there are no teacher logits")]
    NoTeacher,
    #[error(
        "`{loss}` is not defined on stored targets, which hold a part of the teacher's distribution"
    )]
    NotSparse { loss: &'static str },
    #[error(
        "the label of position {position} is {label}, beyond the {valid} tokens that student and teacher share"
    )]
    Label {
        position: usize,
        label: u32,
        valid: usize,
    },
}

/// Adds the losses of all supervised positions to `values` and replaces the student's logits by their gradient.
///
/// `student` is `[rows, vocabulary.student]` and `teacher` `[rows, vocabulary.teacher]`, row-major; scale, values and −∞ are
/// as in [`accumulate_row`]. Rows are shared out among rayon's threads, their values added in the order of the rows.
pub fn loss_rows<F: Real>(
    entries: &LossEntries,
    vocabulary: Vocabulary,
    student: &mut [F],
    teacher: Option<&[F]>,
    labels: Labels,
    scale: F,
    values: &mut [f64],
) -> Result<(), LossRowsError> {
    let teacher = if entries.needs_teacher_logits() {
        teacher
    } else {
        None
    };
    check(entries, vocabulary, student, teacher, labels, values)?;
    let count = entries.count();
    let rows = labels.supervised.len();
    if rows == 0 || vocabulary.student == 0 {
        return Ok(());
    }
    let mut row_values = vec![0.0; rows * count];
    let work = student
        .par_chunks_mut(vocabulary.student)
        .zip(row_values.par_chunks_mut(count))
        .enumerate();
    work.for_each(|(i, (student, values))| {
        if labels.supervised[i] {
            let teacher = teacher.map(|t| &t[i * vocabulary.teacher..(i + 1) * vocabulary.teacher]);
            accumulate_row(
                entries,
                student,
                teacher,
                vocabulary.valid,
                labels.targets[i],
                scale,
                values,
            );
        } else {
            student.fill(F::ZERO);
        }
    });
    for row in row_values.chunks(count) {
        for (sum, value) in values.iter_mut().zip(row) {
            *sum += value;
        }
    }
    Ok(())
}

fn check<F>(
    entries: &LossEntries,
    vocabulary: Vocabulary,
    student: &[F],
    teacher: Option<&[F]>,
    labels: Labels,
    values: &[f64],
) -> Result<(), LossRowsError> {
    let length = |what, expected, got| {
        if expected == got {
            Ok(())
        } else {
            Err(LossRowsError::Length {
                what,
                expected,
                got,
            })
        }
    };
    let valid = vocabulary.valid;
    let columns = |side, columns| {
        if valid <= columns {
            Ok(())
        } else {
            Err(LossRowsError::TooFewColumns {
                side,
                columns,
                valid,
            })
        }
    };
    let rows = labels.supervised.len();
    length("values", entries.count(), values.len())?;
    length("labels", rows, labels.targets.len())?;
    length("student logits", rows * vocabulary.student, student.len())?;
    columns("student", vocabulary.student)?;
    if entries.needs_teacher_logits() {
        let teacher = teacher.ok_or(LossRowsError::NoTeacher)?;
        length("teacher logits", rows * vocabulary.teacher, teacher.len())?;
        columns("teacher", vocabulary.teacher)?;
    }
    check_labels(entries, valid, labels)
}

/// Every label that a loss looks at is below `valid`.
pub(super) fn check_labels(
    entries: &LossEntries,
    valid: usize,
    labels: Labels,
) -> Result<(), LossRowsError> {
    if !entries.needs_labels() {
        return Ok(());
    }
    for (position, (&label, &supervised)) in
        labels.targets.iter().zip(labels.supervised).enumerate()
    {
        if supervised && label as usize >= valid {
            return Err(LossRowsError::Label {
                position,
                label,
                valid,
            });
        }
    }
    Ok(())
}

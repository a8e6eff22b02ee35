//! `f` and `q·h` of one column, as each divergence's own file says them, and the mixtures that some are made of.

use cubecl::prelude::*;

use super::plan::{Kind, PlanTerm};

/// What a divergence says of a column: its part of the value, and `q·h`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Column {
    pub f: f32,
    pub qh: f32,
}

#[cube]
pub(super) fn column(p: f32, q: f32, log_ratio: f32, #[comptime] term: PlanTerm) -> Column {
    let kind = comptime!(term.kind);
    let share = comptime!(term.share.value()).runtime();
    let rest = comptime!(term.rest.value()).runtime();
    match kind {
        Kind::ForwardKl => Column {
            f: -(p * log_ratio),
            qh: -p,
        },
        Kind::ReverseKl => Column {
            f: q * log_ratio,
            qh: q * log_ratio,
        },
        Kind::Jsd => {
            let m = mixture(share, rest, log_ratio);
            let student = rest * q * m.log_student;
            Column {
                f: share * p * m.log_teacher + student,
                qh: student,
            }
        }
        Kind::SkewKl => {
            let m = mixture(share, rest, log_ratio);
            Column {
                f: p * m.log_teacher,
                qh: -(rest * q * m.teacher),
            }
        }
        Kind::SkewReverseKl => {
            let m = mixture(rest, share, log_ratio);
            let f = q * m.log_student;
            Column {
                f,
                qh: f - share * q * m.student,
            }
        }
        Kind::Tvd => {
            let difference = q - p;
            let sign = select(
                difference > 0.0f32,
                0.5f32,
                select(difference < 0.0f32, -0.5f32, 0.0f32),
            );
            Column {
                // The difference itself where it is neither above nor below 0: that lets a NaN through.
                f: select(sign == 0.0f32, difference, sign * difference),
                qh: select(sign == 0.0f32, difference, sign * q),
            }
        }
    }
}

#[derive(CubeType, Clone, Copy)]
struct Mixture {
    teacher: f32,
    log_teacher: f32,
    student: f32,
    log_student: f32,
}

/// As [`crate::loss::mixture::mixture`], for `of_p · p + of_q · q`.
#[cube]
fn mixture(of_p: f32, of_q: f32, log_ratio: f32) -> Mixture {
    let student_leads = log_ratio > 0.0f32;
    let gap = select(student_leads, -log_ratio, log_ratio);
    let smaller = gap.exp();
    let mixed = select(student_leads, of_q + of_p * smaller, of_p + of_q * smaller);
    let larger = 1.0f32 / mixed;
    let smaller = smaller * larger;
    let log_larger = -mixed.ln();
    let log_smaller = gap + log_larger;
    Mixture {
        teacher: select(student_leads, smaller, larger),
        log_teacher: select(student_leads, log_smaller, log_larger),
        student: select(student_leads, larger, smaller),
        log_student: select(student_leads, log_larger, log_smaller),
    }
}

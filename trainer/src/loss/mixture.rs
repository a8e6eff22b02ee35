//! Mixtures of teacher and student, for the divergences that compare with one.

use model::ops::real::Real;

/// A mixture m of p and q, seen from one column. Nothing here overflows, and what cancels is multiplied by next to nothing.
pub(super) struct Mixture<F> {
    /// `p/m`
    pub teacher: F,
    /// `ln(p/m)`
    pub log_teacher: F,
    /// `q/m`
    pub student: F,
    /// `ln(q/m)`
    pub log_student: F,
}

/// `m = share · p + (1 − share) · q`, from `ln(q/p)` alone: probabilities that underflow never meet in a quotient.
#[inline(always)]
pub(super) fn mixture<F: Real>(share: f64, log_ratio: F) -> Mixture<F> {
    let (of_p, of_q) = (F::from_f64(share), F::from_f64(1.0 - share));
    let student_leads = log_ratio > F::ZERO;
    // Everything by the larger of the two probabilities, so that the exponential is at most 1.
    let gap = if student_leads { -log_ratio } else { log_ratio };
    let smaller = gap.exp();
    let mixed = if student_leads {
        of_q + of_p * smaller
    } else {
        of_p + of_q * smaller
    };
    let larger = F::ONE / mixed;
    let (smaller, log_larger) = (smaller * larger, -mixed.ln());
    let log_smaller = gap + log_larger;
    if student_leads {
        Mixture {
            teacher: smaller,
            log_teacher: log_smaller,
            student: larger,
            log_student: log_larger,
        }
    } else {
        Mixture {
            teacher: larger,
            log_teacher: log_larger,
            student: smaller,
            log_student: log_smaller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_apart_it_is_the_share_of_the_larger() {
        for log_ratio in [90.0f32, 1e4, 1e30] {
            let m = mixture(0.1, log_ratio);
            assert_eq!((m.teacher, m.student), (0.0, 1.0 / 0.9));
            assert!((m.log_student + 0.9f32.ln()).abs() < 1e-7 && m.log_teacher.is_finite());
            let m = mixture(0.1, -log_ratio);
            assert_eq!((m.teacher, m.student), (1.0 / 0.1, 0.0));
            assert!((m.log_teacher + 0.1f32.ln()).abs() < 3e-7 && m.log_student.is_finite());
        }
    }

    #[test]
    fn by_hand() {
        // p = 0.2, q = 0.5, m = 0.25 · 0.2 + 0.75 · 0.5 = 0.425
        let m = mixture(0.25, 2.5f64.ln());
        assert!((m.teacher - 0.2 / 0.425).abs() < 1e-15 && (m.student - 0.5 / 0.425).abs() < 1e-15);
        assert!(
            (m.log_teacher.exp() - m.teacher).abs() < 1e-15
                && (m.log_student.exp() - m.student).abs() < 1e-15
        );
    }
}

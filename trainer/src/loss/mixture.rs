//! Mixtures of teacher and student, for the divergences that compare with one.

use super::real::Real;

/// A mixture m of p and q, seen from one column.
pub(super) struct Mixture<F> {
    /// `ln(q/p)`, cut at ± [`Real::RATIO_LIMIT`]: what is cut off is multiplied by less than `exp(−limit)`.
    pub log_ratio: F,
    /// `q/p`
    pub ratio: F,
    /// `m/p`
    pub share: F,
    /// `ln(m/p)`
    pub log_share: F,
}

/// `m = teacher_share · p + (1 − teacher_share) · q`, as ratios to p: probabilities that underflow never meet in a quotient.
#[inline(always)]
pub(super) fn mixture<F: Real>(teacher_share: f64, log_ratio: F) -> Mixture<F> {
    let limit = F::RATIO_LIMIT;
    let cut = if log_ratio > limit { limit } else { log_ratio };
    let cut = if cut < -limit { -limit } else { cut };
    let ratio = cut.exp();
    let share = F::from_f64(teacher_share) + F::from_f64(1.0 - teacher_share) * ratio;
    Mixture { log_ratio: cut, ratio, share, log_share: share.ln() }
}

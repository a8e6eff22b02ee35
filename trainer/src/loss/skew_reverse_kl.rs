//! Skew reverse KL divergence (DistiLLM, arXiv 2402.03898): reverse KL to a teacher that has borrowed a share α of the
//! student.
//!
//! ```text
//! m = (1−α)p + αq        L = KL(q‖m) ≤ −ln α        h = ln(q/m) + 1 − αq/m
//! ```
//!
//! α = 0 is reverse KL.

use super::divergence::Divergence;
use super::mixture::mixture;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct SkewReverseKl {
    /// The student's share of the mixture, strictly between 0 and 1.
    pub alpha: f64,
}

impl Divergence for SkewReverseKl {
    #[inline(always)]
    fn column<F: Real>(self, _p: F, q: F, log_ratio: F) -> (F, F) {
        let m = mixture(1.0 - self.alpha, log_ratio);
        let f = q * m.log_student;
        (f, f - F::from_f64(self.alpha) * q * m.student)
    }
}

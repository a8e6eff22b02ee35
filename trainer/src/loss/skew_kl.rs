//! Skew KL divergence (DistiLLM, arXiv 2402.03898): forward KL to a student that has borrowed a share α of the teacher.
//!
//! ```text
//! m = αp + (1−α)q        L = KL(p‖m) ≤ −ln α        h = −(1−α) p/m
//! ```
//!
//! α = 0 is forward KL.

use super::divergence::Divergence;
use super::mixture::mixture;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct SkewKl {
    /// The teacher's share of the mixture, strictly between 0 and 1.
    pub alpha: f64,
}

impl Divergence for SkewKl {
    #[inline(always)]
    fn column<F: Real>(self, p: F, q: F, log_ratio: F) -> (F, F) {
        let m = mixture(self.alpha, log_ratio);
        (
            p * m.log_teacher,
            -(F::from_f64(1.0 - self.alpha) * q * m.teacher),
        )
    }
}

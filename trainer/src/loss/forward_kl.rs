//! Forward Kullback–Leibler divergence, teacher first (Hinton et al., arXiv 1503.02531).
//!
//! ```text
//! L = Σ p ln(p/q)        ∂L/∂s = q − p
//! ```
//!
//! The teacher's entropy is part of it, so it is 0 where the student agrees and never negative.

use super::divergence::Divergence;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardKl;

impl Divergence for ForwardKl {
    // h = −p/q, and p sums to 1.
    const KNOWN_MEAN: Option<f64> = Some(-1.0);
    const RATIO_SLOPE: f64 = -1.0;

    #[inline(always)]
    fn column<F: Real>(self, p: F, _q: F, log_ratio: F) -> (F, F) {
        (-(p * log_ratio), -p)
    }

    fn diverges(self, student_lacks: bool, _teacher_lacks: bool) -> bool {
        student_lacks
    }
}

//! Generalised Jensen–Shannon divergence (GKD, arXiv 2306.13649), bounded also where the supports differ.
//!
//! ```text
//! m = βp + (1−β)q        L = β·KL(p‖m) + (1−β)·KL(q‖m)
//! h = (1−β) ln(q/m)
//! ```
//!
//! `L/β → KL(p‖q)` as β → 0 and `L/(1−β) → KL(q‖p)` as β → 1, while L itself goes to 0. β = 0 and β = 1 are taken as
//! forward and reverse KL, as TRL does, so the scale jumps at both ends.

use super::divergence::Divergence;
use super::mixture::mixture;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct Jsd {
    /// The teacher's share of the mixture, strictly between 0 and 1.
    pub beta: f64,
}

impl Divergence for Jsd {
    #[inline(always)]
    fn column<F: Real>(self, p: F, q: F, log_ratio: F) -> (F, F) {
        let m = mixture(self.beta, log_ratio);
        let student = F::from_f64(1.0 - self.beta) * q * m.log_student;
        (
            F::from_f64(self.beta) * p * m.log_teacher + student,
            student,
        )
    }
}

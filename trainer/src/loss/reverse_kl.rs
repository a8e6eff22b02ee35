//! Reverse Kullback–Leibler divergence, student first: mode seeking (MiniLLM, arXiv 2306.08543).
//!
//! ```text
//! L = Σ q ln(q/p)        ∂L/∂s = q (ln(q/p) − L)
//! ```
//!
//! It is +∞ where the student gives mass to a column that the teacher has at −∞.

use super::divergence::Divergence;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct ReverseKl;

impl Divergence for ReverseKl {
    const RATIO_SLOPE: f64 = 1.0;

    #[inline(always)]
    fn column<F: Real>(self, _p: F, q: F, log_ratio: F) -> (F, F) {
        // h = ln(q/p) + 1, less the constant: value and mean are the same number.
        let f = q * log_ratio;
        (f, f)
    }

    fn diverges(self, _student_lacks: bool, teacher_lacks: bool) -> bool {
        teacher_lacks
    }
}

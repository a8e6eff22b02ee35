//! What the divergences between teacher and student have in common.
//!
//! Each is a sum over the vocabulary, `L = Σᵢ f(pᵢ, qᵢ)`, of the teacher's probabilities p and the student's q. With
//! `hᵢ = ∂f/∂qᵢ` and `q = softmax(s)` the gradient by the tempered logits s is
//!
//! ```text
//! ∂L/∂sᵢ = qᵢhᵢ − qᵢ Σⱼ qⱼhⱼ
//! ```
//!
//! so a divergence only has to say `f` and `q·h` of one column; the kernel in [`super::row`] does the sums. A constant
//! added to every `hᵢ` cancels in that formula and may be left out.

use super::block::BLOCK;
use super::forward_kl::ForwardKl;
use super::jsd::Jsd;
use super::reverse_kl::ReverseKl;
use super::skew_kl::SkewKl;
use super::skew_reverse_kl::SkewReverseKl;
use super::tvd::Tvd;
use model::ops::real::Real;

pub(super) trait Divergence: Copy {
    /// `Σ q·h` where it is known before the row is read, which saves a pass over the vocabulary.
    const KNOWN_MEAN: Option<f64> = None;

    /// `∂L/∂r` by a constant added to every log ratio, where it is the same for all rows: lets the kernel put back the
    /// digits of the normalisers that `F` does not hold.
    const RATIO_SLOPE: f64 = 0.0;

    /// `(f, q·h)` of one column. `log_ratio` is `ln q − ln p`: right also where p or q has underflowed to 0.
    fn column<F: Real>(self, p: F, q: F, log_ratio: F) -> (F, F);

    /// Whether the divergence is +∞ for a row with columns where only the student, or only the teacher, is at −∞.
    fn diverges(self, _student_lacks: bool, _teacher_lacks: bool) -> bool {
        false
    }
}

/// A divergence chosen at run time. The choice is made once a block, not once a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnyDivergence {
    ForwardKl(ForwardKl),
    ReverseKl(ReverseKl),
    Jsd(Jsd),
    SkewKl(SkewKl),
    SkewReverseKl(SkewReverseKl),
    Tvd(Tvd),
}

/// Evaluates `$body` with `$d` bound to the divergence's own type.
macro_rules! for_divergence {
    ($any:expr, $d:ident => $body:expr) => {
        match $any {
            AnyDivergence::ForwardKl($d) => $body,
            AnyDivergence::ReverseKl($d) => $body,
            AnyDivergence::Jsd($d) => $body,
            AnyDivergence::SkewKl($d) => $body,
            AnyDivergence::SkewReverseKl($d) => $body,
            AnyDivergence::Tvd($d) => $body,
        }
    };
}

impl AnyDivergence {
    pub fn known_mean(self) -> Option<f64> {
        fn of<D: Divergence>(_: D) -> Option<f64> {
            D::KNOWN_MEAN
        }
        for_divergence!(self, d => of(d))
    }

    pub fn ratio_slope(self) -> f64 {
        fn of<D: Divergence>(_: D) -> f64 {
            D::RATIO_SLOPE
        }
        for_divergence!(self, d => of(d))
    }

    pub fn diverges(self, student_lacks: bool, teacher_lacks: bool) -> bool {
        for_divergence!(self, d => d.diverges(student_lacks, teacher_lacks))
    }

    /// `f` and `q·h` of every column of a block.
    #[inline(always)]
    pub fn columns<F: Real>(
        self,
        p: &[F; BLOCK],
        q: &[F; BLOCK],
        log_ratio: &[F; BLOCK],
        f: &mut [F; BLOCK],
        qh: &mut [F; BLOCK],
    ) {
        for_divergence!(self, d => {
            for i in 0..BLOCK {
                (f[i], qh[i]) = d.column(p[i], q[i], log_ratio[i]);
            }
        });
    }
}

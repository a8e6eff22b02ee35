//! Total variation distance.
//!
//! ```text
//! L = ½ Σ |p − q|        h = ½ sign(q − p)
//! ```
//!
//! It takes no factor T²: its gradient does not shrink with the temperature as those of the KL family do.

use super::divergence::Divergence;
use model::ops::real::Real;

#[derive(Clone, Copy, Debug)]
pub(super) struct Tvd;

impl Divergence for Tvd {
    #[inline(always)]
    fn column<F: Real>(self, p: F, q: F, _log_ratio: F) -> (F, F) {
        let half = F::from_f64(0.5);
        let difference = q - p;
        if difference > F::ZERO {
            (half * difference, half * q)
        } else if difference < F::ZERO {
            (-(half * difference), -(half * q))
        } else {
            // 0 where both agree, and NaN where either is.
            (difference, difference)
        }
    }
}

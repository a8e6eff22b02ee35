//! The softmax of a row at a temperature: extremes, sum of exponentials, probabilities.

use super::block::{BLOCK, LANES, LaneSum};
use model::ops::real::Real;

/// The largest logit of a row, and whether any is −∞.
#[derive(Clone, Copy)]
pub(super) struct Extremes<F> {
    /// NaN where no column is above −∞: such a row has no distribution, and everything computed from it is NaN.
    pub max: F,
    pub has_masked: bool,
}

impl<F: Real> Extremes<F> {
    #[inline(always)]
    pub fn of(logits: &[F]) -> Self {
        let mut max = [F::MASKED; LANES];
        let mut min = [F::ZERO; LANES];
        for chunk in logits.chunks_exact(LANES) {
            for ((max, min), &x) in max.iter_mut().zip(&mut min).zip(chunk) {
                *max = if x > *max { x } else { *max };
                *min = if x < *min { x } else { *min };
            }
        }
        let rest = logits.chunks_exact(LANES).remainder();
        for ((max, min), &x) in max.iter_mut().zip(&mut min).zip(rest) {
            *max = if x > *max { x } else { *max };
            *min = if x < *min { x } else { *min };
        }
        let max = max
            .into_iter()
            .fold(F::MASKED, |a, b| if b > a { b } else { a });
        let has_masked = min.into_iter().any(|x| x <= F::MASKED);
        Self {
            max: if max > F::MASKED {
                max
            } else {
                F::from_f64(f64::NAN)
            },
            has_masked,
        }
    }
}

/// `Σ exp((x − max)/T)`, block by block.
#[derive(Clone, Copy, Default)]
pub(super) struct SumOfExponentials(LaneSum);

impl SumOfExponentials {
    #[inline(always)]
    pub fn add<F: Real>(
        &mut self,
        block: &[F; BLOCK],
        extremes: &Extremes<F>,
        inverse_temperature: F,
        scratch: &mut [F; BLOCK],
    ) {
        exponentials(block, extremes.max, inverse_temperature, F::ONE, scratch);
        self.0.add(scratch);
    }

    #[inline(always)]
    pub fn finish<F: Real>(&self, extremes: &Extremes<F>, inverse_temperature: F) -> Softmax<F> {
        let sum = self.0.total();
        Softmax {
            max: extremes.max,
            inverse_temperature,
            inverse_sum: F::from_f64(1.0 / sum),
            log_sum: sum.ln(),
        }
    }
}

/// What turns a row's logits into probabilities.
#[derive(Clone, Copy)]
pub(super) struct Softmax<F> {
    pub max: F,
    inverse_temperature: F,
    inverse_sum: F,
    /// `ln Σ exp((x − max)/T)`
    pub log_sum: f64,
}

impl<F: Real> Softmax<F> {
    #[inline(always)]
    pub fn probabilities(&self, block: &[F; BLOCK], out: &mut [F; BLOCK]) {
        exponentials(
            block,
            self.max,
            self.inverse_temperature,
            self.inverse_sum,
            out,
        );
    }
}

#[inline(always)]
fn exponentials<F: Real>(
    block: &[F; BLOCK],
    max: F,
    inverse_temperature: F,
    factor: F,
    out: &mut [F; BLOCK],
) {
    for (to, &x) in out.iter_mut().zip(block) {
        *to = ((x - max) * inverse_temperature).exp() * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_mass_is_nan() {
        assert!(Extremes::of(&[f32::NEG_INFINITY; 3]).max.is_nan());
        assert!(Extremes::<f64>::of(&[]).max.is_nan());
    }

    #[test]
    fn extremes_look_at_every_column() {
        for len in [1, 2, 15, 16, 17, 33, 700] {
            for at in 0..len {
                let mut x = vec![-5.0f32; len];
                x[at] = -1.0;
                assert_eq!(Extremes::of(&x).max, -1.0);
                assert!(!Extremes::of(&x).has_masked);
                x[at] = f32::NEG_INFINITY;
                assert!(Extremes::of(&x).has_masked);
            }
        }
    }
}

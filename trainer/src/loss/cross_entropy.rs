//! Cross-entropy with the label, at temperature 1.
//!
//! ```text
//! L = −ln q(label)        ∂L/∂s = q − 1[label]
//! ```
//!
//! Its negative is what scoring and preference objectives need: see [`label_log_probs`].

use rayon::prelude::*;

use super::block::{BLOCK, load};
use super::softmax::{Extremes, Softmax, SumOfExponentials};
use model::ops::real::Real;
use model::ops::simd::widest;

/// `−ln q(label)`; +∞ where the label's logit is −∞.
#[inline(always)]
pub(super) fn value<F: Real>(softmax: &Softmax<F>, label_logit: F) -> f64 {
    if label_logit <= F::MASKED {
        return f64::INFINITY;
    }
    softmax.log_sum + (softmax.max.to_f64() - label_logit.to_f64())
}

/// `ln softmax(logits)[label]` of every row, without gradients.
///
/// `logits` is `[rows, vocabulary]`, row-major; columns from `valid` on count as −∞. One result a label, in order.
///
/// # Panics
/// Where the lengths do not fit, or a label is not below `valid`.
pub fn label_log_probs<F: Real>(
    logits: &[F],
    vocabulary: usize,
    valid: usize,
    labels: &[u32],
) -> Vec<f64> {
    assert!(valid <= vocabulary, "{valid} valid columns of {vocabulary}");
    assert_eq!(
        logits.len(),
        labels.len() * vocabulary,
        "logits are [rows, vocabulary], one label a row"
    );
    let score = |(row, &label): (&[F], &u32)| {
        let row = LabelRow {
            logits: &row[..valid],
            label: label as usize,
        };
        -widest(
            #[inline(always)]
            || row.run(),
        )
    };
    logits
        .par_chunks(vocabulary.max(1))
        .zip(labels)
        .map(score)
        .collect()
}

struct LabelRow<'a, F> {
    logits: &'a [F],
    label: usize,
}

impl<F: Real> LabelRow<'_, F> {
    #[inline(always)]
    fn run(self) -> f64 {
        let extremes = Extremes::of(self.logits);
        let mut block = [F::MASKED; BLOCK];
        let mut scratch = [F::ZERO; BLOCK];
        let mut sum = SumOfExponentials::default();
        for columns in self.logits.chunks(BLOCK) {
            load(columns, &mut block);
            sum.add(&block, &extremes, F::ONE, &mut scratch);
        }
        value(&sum.finish(&extremes, F::ONE), self.logits[self.label])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_columns_by_hand() {
        let logits = [0.0f64, 3f64.ln(), 9.0, 3f64.ln(), 0.0, 9.0];
        let scores = label_log_probs(&logits, 3, 2, &[1, 1]);
        assert!((scores[0] - 0.75f64.ln()).abs() < 1e-15);
        assert!((scores[1] - 0.25f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn a_label_at_minus_infinity_has_no_probability() {
        let scores = label_log_probs(&[0.0f32, f32::NEG_INFINITY], 2, 2, &[1]);
        assert_eq!(scores, [f64::NEG_INFINITY]);
    }
}

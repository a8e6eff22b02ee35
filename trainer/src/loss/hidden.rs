//! Losses between hidden states of matched layers (FitNets, arXiv 1412.6550; DistilBERT's cosine, arXiv 1910.01108).
//!
//! Over the hidden dimension d, for the student's row a and the teacher's row b (projected to the student's width where
//! the widths differ):
//!
//! ```text
//! MSE       L = 1/d Σ (a−b)²        ∂L/∂a = 2/d (a−b)
//! cosine    L = 1 − a·b/(|a||b|)    ∂L/∂a = cos · a/|a|² − b/(|a||b|)
//! ```
//!
//! Both take the mean over the hidden dimension but the sum over positions, as the losses over the vocabulary do.

use model::ops::real::Real;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenLoss {
    Mse,
    Cosine,
}

/// Norms below this count as 0: the direction of such a row means nothing, its loss is 1 and its gradient 0.
pub(super) const SMALLEST_NORM: f64 = 1e-8;

/// The sum over supervised rows; adds `scale ·` its gradient by the student's states to `gradient`.
///
/// `student`, `teacher` and `gradient` are `[rows, width]`, row-major. The gradient is added to, because several losses may
/// look at one layer.
///
/// # Panics
/// Where the lengths do not fit.
pub fn hidden_rows<F: Real>(
    loss: HiddenLoss,
    width: usize,
    student: &[F],
    teacher: &[F],
    supervised: &[bool],
    scale: F,
    gradient: &mut [F],
) -> f64 {
    let expected = supervised.len() * width;
    assert!(
        student.len() == expected && teacher.len() == expected && gradient.len() == expected,
        "states are [rows, width]"
    );
    let mut sum = 0.0;
    for (i, _) in supervised.iter().enumerate().filter(|&(_, &counts)| counts) {
        let row = i * width..(i + 1) * width;
        let (a, b, gradient) = (
            &student[row.clone()],
            &teacher[row.clone()],
            &mut gradient[row],
        );
        sum += match loss {
            HiddenLoss::Mse => mse(a, b, scale, gradient),
            HiddenLoss::Cosine => cosine(a, b, scale, gradient),
        };
    }
    sum
}

fn mse<F: Real>(a: &[F], b: &[F], scale: F, gradient: &mut [F]) -> f64 {
    let width = a.len().max(1) as f64;
    let factor = F::from_f64(2.0 / width) * scale;
    let mut sum = 0.0;
    for ((to, &a), &b) in gradient.iter_mut().zip(a).zip(b) {
        let difference = a - b;
        *to += factor * difference;
        sum += difference.to_f64() * difference.to_f64();
    }
    sum / width
}

fn cosine<F: Real>(a: &[F], b: &[F], scale: F, gradient: &mut [F]) -> f64 {
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (a.to_f64(), b.to_f64());
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    let norms = aa.sqrt() * bb.sqrt();
    if aa.sqrt() < SMALLEST_NORM || bb.sqrt() < SMALLEST_NORM {
        return 1.0;
    }
    let cos = ab / norms;
    for ((to, &a), &b) in gradient.iter_mut().zip(a).zip(b) {
        *to += F::from_f64(cos / aa * a.to_f64() - b.to_f64() / norms) * scale;
    }
    1.0 - cos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_cost_nothing() {
        let a = [1.0f64, -2.0, 0.5, 3.0];
        for loss in [HiddenLoss::Mse, HiddenLoss::Cosine] {
            let mut gradient = [0.0; 4];
            let value = hidden_rows(loss, 4, &a, &a, &[true], 1.0, &mut gradient);
            assert!(
                value.abs() < 1e-15 && gradient.iter().all(|g| g.abs() < 1e-15),
                "{loss:?}"
            );
        }
    }

    #[test]
    fn a_zero_row_has_no_direction() {
        let mut gradient = [0.5f32; 2];
        let value = hidden_rows(
            HiddenLoss::Cosine,
            2,
            &[0.0, 0.0],
            &[1.0, 0.0],
            &[true],
            1.0,
            &mut gradient,
        );
        assert_eq!((value, gradient), (1.0, [0.5; 2]));
    }

    #[test]
    fn unsupervised_rows_do_not_count() {
        for loss in [HiddenLoss::Mse, HiddenLoss::Cosine] {
            let mut gradient = [0.25f64; 2];
            assert_eq!(
                hidden_rows(
                    loss,
                    2,
                    &[1.0, f64::NAN],
                    &[0.0, 1.0],
                    &[false],
                    1.0,
                    &mut gradient
                ),
                0.0
            );
            assert_eq!(gradient, [0.25; 2]);
        }
    }
}

//! How far two models of one vocabulary are apart on the same tokens.

use burn::tensor::DType;
use model::batch::TokenBatch;
use model::decoder::Decoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::perplexity::or_infinite;

/// Sums over positions; [`LogitComparison::report`] makes means of them.
#[derive(Debug, Clone, Default)]
pub struct LogitComparison {
    positions: usize,
    labels: usize,
    largest: f64,
    divergence: f64,
    /// Of the labels, by the first model and by the second.
    nll: [f64; 2],
}

/// Nats, and logits as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogitDifference {
    pub tokens: usize,
    #[serde(deserialize_with = "or_infinite")]
    pub largest_logit_difference: f64,
    /// KL(first ‖ second), the mean over positions.
    #[serde(deserialize_with = "or_infinite")]
    pub mean_kl: f64,
    /// Mean of −log p of each label.
    #[serde(deserialize_with = "or_infinite")]
    pub nll_first: f64,
    #[serde(deserialize_with = "or_infinite")]
    pub nll_second: f64,
}

/// The logits of every position, row after row.
pub fn all_logits(decoder: &Decoder, ids: &[u32]) -> Vec<f32> {
    let hidden = decoder.hidden(&TokenBatch::single(ids));
    let logits = decoder.logits(&hidden).cast(DType::F32).into_data();
    logits.try_to_vec().expect("logits were cast to f32")
}

/// What one position adds.
struct Row {
    largest: f64,
    divergence: f64,
    log_sums: [f64; 2],
}

impl LogitComparison {
    /// Adds a sequence: the logits of both models after each of its tokens. Labels are the tokens that follow.
    ///
    /// # Panics
    /// When the logits are not as many for each token, or not equally many.
    pub fn add(&mut self, ids: &[u32], first: &[f32], second: &[f32]) {
        let labels = ids.iter().skip(1).copied().map(Some);
        let labels: Vec<_> = labels.chain([None]).take(ids.len()).collect();
        self.add_labelled(&labels, first, second);
    }

    /// Adds positions: the logits of both models, and the label of each where it has one.
    ///
    /// # Panics
    /// As [`LogitComparison::add`].
    pub fn add_labelled(&mut self, labels: &[Option<u32>], first: &[f32], second: &[f32]) {
        assert_eq!(first.len(), second.len(), "both have the same vocabulary");
        let vocabulary = first.len() / labels.len().max(1);
        let rows: Vec<Row> = first
            .par_chunks(vocabulary.max(1))
            .zip(second.par_chunks(vocabulary.max(1)))
            .map(|(first, second)| Row::of(first, second))
            .collect();
        assert_eq!(rows.len(), labels.len(), "logits for each position");
        self.positions += rows.len();
        for (at, (row, label)) in rows.iter().zip(labels).enumerate() {
            self.largest = larger(self.largest, row.largest);
            self.divergence += row.divergence;
            if let Some(label) = label {
                let place = at * vocabulary + *label as usize;
                self.labels += 1;
                self.nll[0] += row.log_sums[0] - f64::from(first[place]);
                self.nll[1] += row.log_sums[1] - f64::from(second[place]);
            }
        }
    }

    pub fn report(&self) -> LogitDifference {
        let labels = self.labels.max(1) as f64;
        LogitDifference {
            tokens: self.positions,
            largest_logit_difference: self.largest,
            mean_kl: self.divergence / self.positions.max(1) as f64,
            nll_first: self.nll[0] / labels,
            nll_second: self.nll[1] / labels,
        }
    }
}

impl Row {
    fn of(first: &[f32], second: &[f32]) -> Self {
        let log_sums = [first, second].map(log_sum_exp);
        let (mut largest, mut divergence) = (0.0_f64, 0.0);
        for (a, b) in first.iter().zip(second) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            largest = larger(largest, (a - b).abs());
            let (log_p, log_q) = (a - log_sums[0], b - log_sums[1]);
            divergence += log_p.exp() * (log_p - log_q);
        }
        Self {
            largest,
            // Rounding may leave what is zero a little below it; a NaN stays.
            divergence: if divergence < 0.0 { 0.0 } else { divergence },
            log_sums,
        }
    }
}

/// Unlike `f64::max`, keeps a NaN.
fn larger(most: f64, other: f64) -> f64 {
    match other > most || other.is_nan() {
        true => other,
        false => most,
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row
        .iter()
        .map(|logit| (f64::from(*logit) - most).exp())
        .sum();
    most + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_differ_by_nothing_and_others_by_the_formula() {
        let (p, q) = ([0.5_f32, 0.25, 0.25], [0.25_f32, 0.25, 0.5]);
        let logits = |row: [f32; 3]| row.map(|p| p.ln() + 3.0);
        let first: Vec<f32> = [logits(p), logits(p)].concat();
        let mut same = LogitComparison::default();
        same.add(&[0, 2], &first, &first);
        let report = same.report();
        assert_eq!(
            (report.mean_kl, report.largest_logit_difference),
            (0.0, 0.0)
        );
        assert_eq!(report.nll_first, report.nll_second);

        let second: Vec<f32> = [logits(q), logits(p)].concat();
        let mut other = LogitComparison::default();
        other.add(&[0, 2], &first, &second);
        let report = other.report();
        let divergence = 0.5 * 2.0_f64.ln() - 0.25 * 2.0_f64.ln();
        assert!(
            (report.mean_kl - divergence / 2.0).abs() < 1e-7,
            "{report:?}"
        );
        assert!((report.largest_logit_difference - 2.0_f64.ln()).abs() < 1e-6);
        assert!((report.nll_first - 4.0_f64.ln()).abs() < 1e-6);
        assert!((report.nll_second - 2.0_f64.ln()).abs() < 1e-6);
        assert_eq!(report.tokens, 2);
    }

    #[test]
    fn a_nan_is_not_overlooked() {
        let mut comparison = LogitComparison::default();
        comparison.add(&[0], &[0.0, 1.0], &[f32::NAN, 1.0]);
        let report = comparison.report();
        assert!(report.mean_kl.is_nan() && report.largest_logit_difference.is_nan());
    }
}

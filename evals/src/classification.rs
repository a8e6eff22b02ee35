//! How well scores tell two classes apart.

use serde::{Deserialize, Serialize};

/// Numbers of a classifier on labelled rows; the positive class is the one that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    pub true_positives: u64,
    pub false_positives: u64,
    pub true_negatives: u64,
    pub false_negatives: u64,
    /// Of what is taken for positive, the share that is; 0 where nothing is.
    pub precision: f64,
    /// Of what is positive, the share that is taken for it.
    pub recall: f64,
    pub f1: f64,
    /// The chance that a positive row scores higher than a negative one, ties by half.
    pub auc: f64,
}

/// Rows whose score reaches `threshold` are taken for positive. None without rows of both classes.
pub fn classification(scores: &[f64], labels: &[bool], threshold: f64) -> Option<Classification> {
    let auc = auc(scores, labels)?;
    let count = |positive: bool, taken: bool| {
        let rows = scores.iter().zip(labels);
        rows.filter(|(score, label)| (**score >= threshold) == taken && **label == positive)
            .count() as u64
    };
    let (true_positives, false_positives) = (count(true, true), count(false, true));
    let (true_negatives, false_negatives) = (count(false, false), count(true, false));
    let share = |of: u64, among: u64| of as f64 / among.max(1) as f64;
    Some(Classification {
        true_positives,
        false_positives,
        true_negatives,
        false_negatives,
        precision: share(true_positives, true_positives + false_positives),
        recall: share(true_positives, true_positives + false_negatives),
        f1: share(
            2 * true_positives,
            2 * true_positives + false_positives + false_negatives,
        ),
        auc,
    })
}

/// Area under the ROC curve by counting pairs (Mann–Whitney), exact with ties. None without rows of both classes.
pub fn auc(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let mut rows: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut negatives_below, mut positives, mut half_pairs) = (0u64, 0u64, 0u64);
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        let high = tied.iter().filter(|(_, label)| *label).count() as u64;
        let low = tied.len() as u64 - high;
        half_pairs += high * (2 * negatives_below + low);
        negatives_below += low;
        positives += high;
    }
    match positives * negatives_below {
        0 => None,
        pairs => Some(half_pairs as f64 / (2 * pairs) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_pairs_and_ties_by_half() {
        let of = |rows: &[(f64, bool)]| {
            let (scores, labels): (Vec<f64>, Vec<bool>) = rows.iter().copied().unzip();
            auc(&scores, &labels)
        };
        assert_eq!(of(&[(0.1, false), (0.9, true)]), Some(1.0));
        assert_eq!(of(&[(0.9, false), (0.1, true)]), Some(0.0));
        assert_eq!(of(&[(0.5, false), (0.5, true), (0.5, true)]), Some(0.5));
        // scikit-learn's example: roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) = 0.75.
        let rows = [(0.1, false), (0.4, false), (0.35, true), (0.8, true)];
        assert_eq!(of(&rows), Some(0.75));
        assert_eq!(of(&[(0.1, true), (0.2, true)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn auc_is_that_of_all_pairs() {
        let scores: Vec<f64> = (0..97).map(|i| f64::from(i * 37 % 11) / 11.0).collect();
        let labels: Vec<bool> = (0..97).map(|i| i * 53 % 7 < 3).collect();
        let mut wins = 0.0;
        let mut pairs = 0.0;
        for (a, _) in labels.iter().enumerate().filter(|(_, label)| **label) {
            for (b, _) in labels.iter().enumerate().filter(|(_, label)| !**label) {
                wins += match scores[a].total_cmp(&scores[b]) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
                pairs += 1.0;
            }
        }
        assert_eq!(auc(&scores, &labels), Some(wins / pairs));
    }

    #[test]
    fn shares_follow_from_the_counts() {
        let scores = [0.9, 0.5, 0.4, 0.6, 0.1];
        let labels = [true, true, true, false, false];
        let found = classification(&scores, &labels, 0.5).unwrap();
        assert_eq!((found.true_positives, found.false_positives), (2, 1));
        assert_eq!((found.true_negatives, found.false_negatives), (1, 1));
        assert_eq!(found.precision, 2.0 / 3.0);
        assert_eq!(found.recall, 2.0 / 3.0);
        assert_eq!(found.f1, 2.0 / 3.0);
        let none = classification(&scores, &labels, 2.0).unwrap();
        assert_eq!((none.precision, none.recall, none.f1), (0.0, 0.0, 0.0));
    }
}

//! A random forest (Breiman, "Random Forests", 2001) that tells rows of numbers of one class from those of another.
//!
//! It is a regression on the labels 0 and 1. Splits by their variance are those by Gini impurity, which is twice that.
//! Trees are grown until their leaves are pure, so their mean is the share of trees that vote for the class. A leaf of
//! equal rows with different labels cannot be split: there a tree's vote is divided as the labels are.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;
use thiserror::Error;

use crate::random::Random;

/// Rows that are judged together.
const ROWS_AT_A_TIME: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForestConfig {
    pub trees: usize,
    pub seed: u64,
}

#[derive(Debug, Error)]
pub enum ForestError {
    #[error(
        "{found} of {rows} labels are {class}, and {folds} folds need at least {folds} of each class\n\
         hint: label more, move the border between high and low, or take fewer `folds`"
    )]
    TooFew {
        class: &'static str,
        found: usize,
        rows: usize,
        folds: usize,
    },
    #[error("the forest cannot be grown: {0}")]
    Grow(String),
}

type Regressor = RandomForestRegressor<f32, f64, DenseMatrix<f32>, Vec<f64>>;

/// Columns that each split chooses from are the root of all, drawn anew.
pub struct Forest {
    trees: Regressor,
    columns: usize,
}

impl Forest {
    /// `rows` is row-major, one row a label.
    ///
    /// # Errors
    /// No labels, or rows that are not finite.
    pub fn grow(rows: &[f32], labels: &[bool], config: &ForestConfig) -> Result<Self, ForestError> {
        let columns = rows.len() / labels.len().max(1);
        if !rows.iter().all(|value| value.is_finite()) {
            return Err(ForestError::Grow("a number is not finite".into()));
        }
        let parameters = RandomForestRegressorParameters::default()
            .with_n_trees(config.trees)
            .with_m((columns as f64).sqrt().ceil() as usize)
            .with_min_samples_leaf(1)
            .with_min_samples_split(2)
            .with_seed(config.seed);
        let targets: Vec<f64> = labels.iter().map(|&label| f64::from(label)).collect();
        let failed = |error: smartcore::error::Failed| ForestError::Grow(error.to_string());
        let rows = matrix(rows, columns).map_err(failed)?;
        let trees = Regressor::fit(&rows, &targets, parameters).map_err(failed)?;
        Ok(Self { trees, columns })
    }

    /// The share of trees that vote for each row.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn votes(&self, rows: &[f32]) -> Result<Vec<f64>, ForestError> {
        let failed = |error: smartcore::error::Failed| ForestError::Grow(error.to_string());
        let votes = rows
            .par_chunks(self.columns * ROWS_AT_A_TIME)
            .map(|some| self.trees.predict(&matrix(some, self.columns)?))
            .collect::<Result<Vec<_>, _>>();
        Ok(votes.map_err(failed)?.concat())
    }
}

fn matrix(rows: &[f32], columns: usize) -> Result<DenseMatrix<f32>, smartcore::error::Failed> {
    DenseMatrix::new(rows.len() / columns.max(1), columns, rows.to_vec(), false)
}

/// The votes for every row by forests that have not seen it: rows are dealt into `folds`, each with its share of both
/// classes, and the forest of a fold grows on all others.
///
/// # Errors
/// [`ForestError::TooFew`] when a fold would lack a class.
pub fn cross_validated_votes(
    rows: &[f32],
    labels: &[bool],
    folds: usize,
    config: &ForestConfig,
) -> Result<Vec<f64>, ForestError> {
    let fold_of = deal(labels, folds, config.seed)?;
    let columns = rows.len() / labels.len();
    let of_fold = |fold: usize| -> Result<Vec<(usize, f64)>, ForestError> {
        let (unseen, seen): (Vec<usize>, Vec<usize>) =
            (0..labels.len()).partition(|&row| fold_of[row] == fold);
        let gather = |of: &[usize]| -> Vec<f32> {
            let slices = of
                .iter()
                .map(|row| &rows[row * columns..(row + 1) * columns]);
            slices.flatten().copied().collect()
        };
        let seen_labels: Vec<bool> = seen.iter().map(|&row| labels[row]).collect();
        let forest = Forest::grow(&gather(&seen), &seen_labels, config)?;
        Ok(unseen
            .iter()
            .copied()
            .zip(forest.votes(&gather(&unseen))?)
            .collect())
    };
    let found = (0..folds)
        .into_par_iter()
        .map(of_fold)
        .collect::<Result<Vec<_>, _>>()?;
    let mut votes = vec![0.0; labels.len()];
    for (row, vote) in found.into_iter().flatten() {
        votes[row] = vote;
    }
    Ok(votes)
}

/// The fold of each row.
fn deal(labels: &[bool], folds: usize, seed: u64) -> Result<Vec<usize>, ForestError> {
    let mut fold_of = vec![0; labels.len()];
    for (class, called) in [(true, "high"), (false, "low")] {
        let mut of_class: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
        if of_class.len() < folds {
            return Err(ForestError::TooFew {
                class: called,
                found: of_class.len(),
                rows: labels.len(),
                folds,
            });
        }
        Random::new(seed, "forest", 0, called).shuffle(&mut of_class);
        for (at, row) in of_class.into_iter().enumerate() {
            fold_of[row] = at % folds;
        }
    }
    Ok(fold_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ForestConfig = ForestConfig { trees: 30, seed: 7 };

    /// Two clouds; only the first two of eight columns tell them apart.
    fn clouds(count: usize, seed: u64) -> (Vec<f32>, Vec<bool>) {
        let mut random = Random::new(seed, "test", 0, "clouds");
        let mut rows = Vec::new();
        let labels: Vec<bool> = (0..count).map(|row| row % 3 == 0).collect();
        for &label in &labels {
            for column in 0..8 {
                let away = if label && column < 2 { 1.2 } else { 0.0 };
                rows.push((random.f64() + away) as f32);
            }
        }
        (rows, labels)
    }

    #[test]
    fn a_forest_learns_and_is_the_same_bits_for_the_same_seed() {
        let (rows, labels) = clouds(120, 1);
        let (unseen, expected) = clouds(600, 2);
        let votes = |seed| {
            let config = ForestConfig { seed, ..CONFIG };
            let forest = Forest::grow(&rows, &labels, &config).unwrap();
            forest.votes(&unseen).unwrap()
        };
        let first = votes(7);
        assert_eq!(first, votes(7));
        assert_ne!(first, votes(8));
        let right = first
            .iter()
            .zip(&expected)
            .filter(|(vote, label)| (**vote >= 0.5) == **label);
        assert!(right.count() > 580);
        // Pure leaves: every vote is a whole number of trees.
        let whole = |vote: &f64| (vote * 30.0 - (vote * 30.0).round()).abs() < 1e-9;
        assert!(first.iter().all(whole), "{first:?}");
        // Equal rows that differ in their labels divide the votes.
        let labels: Vec<bool> = (0..40).map(|row| row % 4 == 0).collect();
        let forest = Forest::grow(&[1.0; 80], &labels, &CONFIG).unwrap();
        let vote = forest.votes(&[1.0, 1.0]).unwrap()[0];
        assert!((vote - 0.25).abs() < 0.1, "{vote}");
        assert!(!whole(&vote), "{vote}");
    }

    #[test]
    fn folds_hold_both_classes_and_judge_what_they_have_not_seen() {
        let (rows, labels) = clouds(60, 3);
        let fold_of = deal(&labels, 5, 7).unwrap();
        for fold in 0..5 {
            let of_fold = |class: bool| {
                let rows = (0..60).filter(|&row| fold_of[row] == fold && labels[row] == class);
                rows.count()
            };
            assert_eq!((of_fold(true), of_fold(false)), (4, 8));
        }
        let votes = cross_validated_votes(&rows, &labels, 5, &CONFIG).unwrap();
        assert_eq!(
            votes,
            cross_validated_votes(&rows, &labels, 5, &CONFIG).unwrap()
        );
        let right = (0..60).filter(|&i| (votes[i] >= 0.5) == labels[i]).count();
        assert!(right >= 56, "{right}");
        // Labels that say nothing of the rows are not learned.
        let noise: Vec<bool> = (0..60).map(|i| i * 7919 % 60 < 30).collect();
        let votes = cross_validated_votes(&rows, &noise, 5, &CONFIG).unwrap();
        let right = (0..60).filter(|&i| (votes[i] >= 0.5) == noise[i]).count();
        assert!((15..=45).contains(&right), "{right}");
    }

    #[test]
    fn too_little_is_an_error() {
        let (rows, _) = clouds(10, 4);
        let one_class = cross_validated_votes(&rows, &[true; 10], 5, &CONFIG).unwrap_err();
        assert!(one_class.to_string().contains("0 of 10 labels are low"));
        let error = Forest::grow(&[f32::NAN], &[true], &CONFIG);
        assert!(error.is_err());
        assert!(Forest::grow(&[], &[], &CONFIG).is_err());
    }
}

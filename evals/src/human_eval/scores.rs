//! What came of all samples: pass@k, and how programs ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Sample;
use crate::pass_at_k::pass_at_k;

/// The k of pass@k, as far as there are samples.
const KS: [usize; 3] = [1, 10, 100];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HumanEval {
    pub tasks: usize,
    pub samples: usize,
    /// Samples that passed.
    pub passed: usize,
    /// Means over the tasks, by rising k.
    pub pass_at: Vec<PassAt>,
    /// Of pass@1, over the tasks.
    pub standard_error: f64,
    /// How many samples met which fate.
    pub verdicts: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PassAt {
    pub k: usize,
    pub estimate: f64,
}

/// `each` samples of every task, one task after the other.
pub(super) fn summed_up(samples: &[Sample], each: usize) -> HumanEval {
    let right: Vec<usize> = (samples.chunks(each))
        .map(|of_task| of_task.iter().filter(|sample| sample.correct).count())
        .collect();
    let tasks = right.len() as f64;
    let mean = |k: usize| {
        let estimates = right.iter().map(|c| pass_at_k(each, *c, k));
        estimates.sum::<f64>() / tasks
    };
    let ks = KS.into_iter().filter(|k| *k <= each);
    let pass_at = ks.map(|k| {
        let estimate = mean(k);
        PassAt { k, estimate }
    });
    let first = mean(1);
    let squares = right
        .iter()
        .map(|c| (pass_at_k(each, *c, 1) - first).powi(2));
    let mut verdicts = BTreeMap::new();
    for sample in samples {
        *verdicts
            .entry(sample.outcome.verdict.described())
            .or_default() += 1;
    }
    HumanEval {
        tasks: right.len(),
        samples: samples.len(),
        passed: right.iter().sum(),
        standard_error: (squares.sum::<f64>() / (tasks - 1.0).max(1.0) / tasks).sqrt(),
        pass_at: pass_at.collect(),
        verdicts,
    }
}

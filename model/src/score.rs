//! Log-probabilities of given tokens, a chunk of positions at a time: the logits of a whole batch are
//! never held.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::decoder::Decoder;
use crate::operation;
use crate::ops::host::with_f32;
use crate::ops::real::{Real, lane_sum};
use crate::ops::simd::widest;
use crate::span::Cost;

/// Bytes of logits held at a time. Every chunk reads the head and, in training, its gradient: half as much would make
/// a head of 49 thousand rows a twentieth slower.
const CHUNK_BYTES: usize = 48 << 20;

/// Positions of a chunk for a vocabulary of this size: a function of the size alone, so that results do
/// not depend on the machine.
pub fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_BYTES / (4 * vocabulary.max(1))).clamp(8, 1024)
}

/// Natural log-probability of `targets[i]` after position i of `hidden` `[tokens, hidden]`.
///
/// # Panics
/// When a target lies beyond the head's rows.
pub fn label_log_probs(decoder: &Decoder, hidden: &Tensor<2>, targets: &[u32]) -> Vec<f64> {
    let mut out = Vec::with_capacity(targets.len());
    for_each_chunk(decoder, hidden, |start, logits, vocabulary| {
        let _span = operation!("log-softmax", Cost::numbers(logits.len(), DType::F32));
        let rows: Vec<f64> = logits
            .par_chunks(vocabulary)
            .zip(&targets[start..])
            .map(|(row, &target)| f64::from(row[target as usize]) - log_sum_exp(row))
            .collect();
        out.extend(rows);
    });
    out
}

/// Natural log-probabilities of several tokens at each position: those of `targets[i]` after position i of `hidden`
/// `[tokens, hidden]`.
///
/// # Panics
/// When a target lies beyond the head's rows.
pub fn log_probs_of(decoder: &Decoder, hidden: &Tensor<2>, targets: &[Vec<u32>]) -> Vec<Vec<f64>> {
    let mut out = Vec::with_capacity(targets.len());
    for_each_chunk(decoder, hidden, |start, logits, vocabulary| {
        let _span = operation!("log-softmax", Cost::numbers(logits.len(), DType::F32));
        let rows: Vec<Vec<f64>> = logits
            .par_chunks(vocabulary)
            .zip(&targets[start..])
            .map(|(row, targets)| {
                let total = log_sum_exp(row);
                let log_prob = |&target: &u32| f64::from(row[target as usize]) - total;
                targets.iter().map(log_prob).collect()
            })
            .collect();
        out.extend(rows);
    });
    out
}

/// The `k` largest logits of each position, largest first.
pub fn top_logits(decoder: &Decoder, hidden: &Tensor<2>, k: usize) -> Vec<Vec<(u32, f32)>> {
    let mut out = Vec::new();
    for_each_chunk(decoder, hidden, |_, logits, vocabulary| {
        let rows: Vec<_> = logits
            .par_chunks(vocabulary)
            .map(|row| top(row, k))
            .collect();
        out.extend(rows);
    });
    out
}

fn top(row: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    let larger = |&a: &u32, &b: &u32| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b));
    if k < order.len() {
        order.select_nth_unstable_by(k, larger);
        order.truncate(k);
    }
    order.sort_by(larger);
    order.into_iter().map(|id| (id, row[id as usize])).collect()
}

fn for_each_chunk(decoder: &Decoder, hidden: &Tensor<2>, mut f: impl FnMut(usize, &[f32], usize)) {
    let [tokens, width] = hidden.dims();
    let vocabulary = decoder.head().rows();
    let rows = chunk_rows(vocabulary);
    for start in (0..tokens).step_by(rows) {
        let chunk = hidden
            .clone()
            .slice([start..(start + rows).min(tokens), 0..width]);
        let logits = decoder.logits(&chunk).cast(DType::F32);
        with_f32(&logits, |logits| f(start, logits, vocabulary));
    }
}

/// ln Σ e^x.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    widest(
        #[inline(always)]
        || {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, Real::maximum);
            let sum: f64 = row
                .chunks(1024)
                .map(|part| f64::from(lane_sum(part.len(), |i| Real::exp(part[i] - largest))))
                .sum();
            f64::from(largest) + sum.ln()
        },
    )
}

//! The CPU loops of attention: matrix products over tiles of queries, one task a row and head.

use burn::tensor::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::attention::AttentionPattern;
use super::host::{HostTensor, SharedOutput, from_values};
use super::product::product;
use super::real::{Real, lane_sum};
use super::simd::widest;
use crate::for_real;

/// Queries that share one product with the keys; 64 × 8192 scores in `f32` are 2 MiB a thread.
const TILE: usize = 64;

/// Output `[queries, heads · head_dim]` and log-sum-exp `[queries, heads]`.
pub(super) fn forward_host(
    pattern: &AttentionPattern,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let queries = pattern.rows * pattern.query_length;
    for_real!(q.dtype(), F, {
        let (q, k, v) = (
            HostTensor::held(q),
            HostTensor::held(k),
            HostTensor::held(v),
        );
        let (q, k, v) = (q.slice::<F>(), k.slice::<F>(), v.slice::<F>());
        let mut out = vec![F::ZERO; queries * pattern.heads * pattern.head_dim];
        let mut log_sum_exp = vec![F::ZERO; queries * pattern.heads];
        let shared_out = SharedOutput::new(&mut out);
        let shared_lse = SharedOutput::new(&mut log_sum_exp);
        let tiles = pattern.query_length.div_ceil(TILE);
        (0..pattern.rows * pattern.heads * tiles)
            .into_par_iter()
            .for_each_init(Vec::new, |scores, task| {
                let (row, rest) = (
                    task / (pattern.heads * tiles),
                    task % (pattern.heads * tiles),
                );
                let tile = Tile::new(pattern, row, rest / tiles, rest % tiles);
                // Safety: each task writes the columns of its own head in its own queries.
                unsafe { tile.forward(q, k, v, scores, shared_out, shared_lse) };
            });
        (
            from_values(out, [queries, pattern.heads * pattern.head_dim]),
            from_values(log_sum_exp, [queries, pattern.heads]),
        )
    })
}

/// Gradients of (q, k, v).
pub(super) fn backward_host(
    pattern: &AttentionPattern,
    d_out: &Tensor<2>,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    out: &Tensor<2>,
    log_sum_exp: &Tensor<2>,
) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let (q_shape, kv_shape) = (q.dims(), k.dims());
    for_real!(q.dtype(), F, {
        let (q, k, v) = (
            HostTensor::held(q),
            HostTensor::held(k),
            HostTensor::held(v),
        );
        let (d_out, out, lse) = (
            HostTensor::held(d_out),
            HostTensor::held(out),
            HostTensor::held(log_sum_exp),
        );
        let inputs = BackwardInputs {
            q: q.slice::<F>(),
            k: k.slice::<F>(),
            v: v.slice::<F>(),
            d_out: d_out.slice::<F>(),
            out: out.slice::<F>(),
            log_sum_exp: lse.slice::<F>(),
        };
        let mut dq = vec![F::ZERO; q_shape[0] * q_shape[1]];
        let mut dk = vec![F::ZERO; kv_shape[0] * kv_shape[1]];
        let mut dv = vec![F::ZERO; kv_shape[0] * kv_shape[1]];
        let shared = [&mut dq, &mut dk, &mut dv].map(|values| SharedOutput::new(values));
        let group = pattern.heads / pattern.kv_heads;
        (0..pattern.rows * pattern.kv_heads)
            .into_par_iter()
            .for_each_init(Scratch::default, |scratch, task| {
                let (row, kv_head) = (task / pattern.kv_heads, task % pattern.kv_heads);
                for head in kv_head * group..(kv_head + 1) * group {
                    for tile in 0..pattern.query_length.div_ceil(TILE) {
                        let tile = Tile::new(pattern, row, head, tile);
                        // Safety: each task writes one key/value head of one row and the query heads
                        // of its group; the tiles of a task run one after the other.
                        unsafe { tile.backward(&inputs, scratch, shared) };
                    }
                }
            });
        (
            from_values(dq, q_shape),
            from_values(dk, kv_shape),
            from_values(dv, kv_shape),
        )
    })
}

struct BackwardInputs<'a, F> {
    q: &'a [F],
    k: &'a [F],
    v: &'a [F],
    d_out: &'a [F],
    out: &'a [F],
    log_sum_exp: &'a [F],
}

#[derive(Default)]
struct Scratch<F> {
    probabilities: Vec<F>,
    d_scores: Vec<F>,
}

/// Up to `TILE` queries of one row and head, and the keys that any of them sees.
struct Tile<'a> {
    pattern: &'a AttentionPattern,
    head: usize,
    /// First query, counted over the whole batch.
    query: usize,
    queries: usize,
    /// First key, counted over the whole batch.
    key: usize,
    keys: usize,
    /// Visible keys of each query, relative to `key`.
    visible: Vec<(usize, usize)>,
}

impl<'a> Tile<'a> {
    fn new(pattern: &'a AttentionPattern, row: usize, head: usize, tile: usize) -> Self {
        let start = tile * TILE;
        let queries = TILE.min(pattern.query_length - start);
        let query = row * pattern.query_length + start;
        let ranges = &pattern.visible[query..query + queries];
        let seeing = ranges.iter().filter(|(start, end)| start < end);
        let first = seeing.clone().map(|r| r.0).min().unwrap_or(0) as usize;
        let last = seeing.map(|r| r.1).max().unwrap_or(0) as usize;
        let relative = |&(start, end): &(u32, u32)| match start < end {
            true => (start as usize - first, end as usize - first),
            false => (0, 0),
        };
        Self {
            pattern,
            head,
            query,
            queries,
            key: row * pattern.key_length + first,
            keys: last.saturating_sub(first),
            visible: ranges.iter().map(relative).collect(),
        }
    }

    fn q_stride(&self) -> usize {
        self.pattern.heads * self.pattern.head_dim
    }

    fn kv_stride(&self) -> usize {
        self.pattern.kv_heads * self.pattern.head_dim
    }

    fn q_offset(&self) -> usize {
        self.query * self.q_stride() + self.head * self.pattern.head_dim
    }

    fn kv_offset(&self) -> usize {
        let group = self.pattern.heads / self.pattern.kv_heads;
        self.key * self.kv_stride() + self.head / group * self.pattern.head_dim
    }

    /// `scores[query, key] = a[query] · b[key]` for strided rows of queries and of keys.
    unsafe fn scores<F: Real>(&self, a: &[F], b: &[F], scores: &mut Vec<F>) {
        scores.resize(self.queries * self.keys, F::ZERO);
        let (a, b) = (&a[self.q_offset()..], &b[self.kv_offset()..]);
        unsafe {
            product(
                (self.queries, self.keys, self.pattern.head_dim),
                (scores.as_mut_ptr(), self.keys),
                (a.as_ptr(), self.q_stride(), 1),
                (b.as_ptr(), 1, self.kv_stride()),
                false,
                Parallelism::None,
            );
        }
    }

    unsafe fn forward<F: Real>(
        &self,
        q: &[F],
        k: &[F],
        v: &[F],
        scores: &mut Vec<F>,
        out: SharedOutput<F>,
        log_sum_exp: SharedOutput<F>,
    ) {
        let lse_at = |i: usize| (self.query + i) * self.pattern.heads + self.head;
        if self.keys == 0 {
            for i in 0..self.queries {
                unsafe { *log_sum_exp.at(lse_at(i)) = F::NEG_INFINITY };
            }
            return;
        }
        unsafe { self.scores(q, k, scores) };
        let scale = F::from_f64(self.pattern.scale());
        for (i, row) in scores.chunks_mut(self.keys).enumerate() {
            let lse = softmax_row(row, self.visible[i], scale);
            unsafe { *log_sum_exp.at(lse_at(i)) = lse };
        }
        unsafe {
            product(
                (self.queries, self.pattern.head_dim, self.keys),
                (out.at(self.q_offset()), self.q_stride()),
                (scores.as_ptr(), self.keys, 1),
                (v[self.kv_offset()..].as_ptr(), self.kv_stride(), 1),
                false,
                Parallelism::None,
            );
        }
    }

    unsafe fn backward<F: Real>(
        &self,
        inputs: &BackwardInputs<F>,
        scratch: &mut Scratch<F>,
        [dq, dk, dv]: [SharedOutput<F>; 3],
    ) {
        if self.keys == 0 {
            return;
        }
        let head_dim = self.pattern.head_dim;
        let scale = F::from_f64(self.pattern.scale());
        unsafe {
            self.scores(inputs.q, inputs.k, &mut scratch.probabilities);
            self.scores(inputs.d_out, inputs.v, &mut scratch.d_scores);
        }
        let rows = scratch.probabilities.chunks_mut(self.keys);
        for (i, (p, ds)) in rows.zip(scratch.d_scores.chunks_mut(self.keys)).enumerate() {
            let at = self.q_offset() + i * self.q_stride();
            let (out, d_out) = (
                &inputs.out[at..at + head_dim],
                &inputs.d_out[at..at + head_dim],
            );
            let lse = inputs.log_sum_exp[(self.query + i) * self.pattern.heads + self.head];
            backward_row(p, ds, (out, d_out), self.visible[i], lse, scale);
        }
        let (p, ds) = (scratch.probabilities.as_ptr(), scratch.d_scores.as_ptr());
        let kv_shape = (self.keys, head_dim, self.queries);
        unsafe {
            product(
                (self.queries, head_dim, self.keys),
                (dq.at(self.q_offset()), self.q_stride()),
                (ds, self.keys, 1),
                (inputs.k[self.kv_offset()..].as_ptr(), self.kv_stride(), 1),
                false,
                Parallelism::None,
            );
            product(
                kv_shape,
                (dk.at(self.kv_offset()), self.kv_stride()),
                (ds, 1, self.keys),
                (inputs.q[self.q_offset()..].as_ptr(), self.q_stride(), 1),
                true,
                Parallelism::None,
            );
            product(
                kv_shape,
                (dv.at(self.kv_offset()), self.kv_stride()),
                (p, 1, self.keys),
                (inputs.d_out[self.q_offset()..].as_ptr(), self.q_stride(), 1),
                true,
                Parallelism::None,
            );
        }
    }
}

/// Turns scores into probabilities over the visible keys, 0 elsewhere; returns the log-sum-exp.
pub(crate) fn softmax_row<F: Real>(row: &mut [F], (start, end): (usize, usize), scale: F) -> F {
    row[..start].fill(F::ZERO);
    row[end..].fill(F::ZERO);
    let row = &mut row[start..end];
    if row.is_empty() {
        return F::NEG_INFINITY;
    }
    widest(
        #[inline(always)]
        || {
            let mut largest = [F::NEG_INFINITY; 16];
            let mut chunks = row.chunks_exact(16);
            for chunk in &mut chunks {
                for (largest, value) in largest.iter_mut().zip(chunk) {
                    *largest = value.maximum(*largest);
                }
            }
            let rest = chunks.remainder().iter().copied();
            let largest = largest
                .into_iter()
                .chain(rest)
                .fold(F::NEG_INFINITY, Real::maximum);
            for value in row.iter_mut() {
                *value = ((*value - largest) * scale).exp();
            }
            let sum = lane_sum(row.len(), |i| row[i]);
            let inverse = F::ONE / sum;
            for value in row.iter_mut() {
                *value = *value * inverse;
            }
            largest * scale + F::from_f64(sum.to_f64().ln())
        },
    )
}

/// Scores become probabilities in `p`; `ds`, given dP, becomes the gradient of the unscaled scores.
fn backward_row<F: Real>(
    p: &mut [F],
    ds: &mut [F],
    (out, d_out): (&[F], &[F]),
    (start, end): (usize, usize),
    log_sum_exp: F,
    scale: F,
) {
    for values in [&mut *p, &mut *ds] {
        values[..start].fill(F::ZERO);
        values[end..].fill(F::ZERO);
    }
    let (p, ds) = (&mut p[start..end], &mut ds[start..end]);
    widest(
        #[inline(always)]
        || {
            let inner = lane_sum(out.len(), |i| out[i] * d_out[i]);
            for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
                *p = (*p * scale - log_sum_exp).exp();
                *ds = *p * (*ds - inner) * scale;
            }
        },
    );
}

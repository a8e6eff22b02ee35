//! Scaled dot-product attention with grouped key/value heads (arXiv 2305.13245), over any pattern in
//! which a query sees one contiguous range of keys: causal, packed samples, sliding window, key/value
//! cache. Memory is linear in the length (arXiv 2205.14135): queries go in tiles, the log-sum-exp of
//! each query is kept and the backward pass recomputes the probabilities from it.

use burn::tensor::{Bool, DType, Tensor, TensorData, activation};

use super::attention_host::{backward_host, forward_host};
use super::host::is_host;
use crate::operation;
use crate::span::Cost;

/// Which keys each query sees, and how the columns of q, k and v fall into heads.
#[derive(Debug, Clone)]
pub struct AttentionPattern {
    pub rows: usize,
    pub query_length: usize,
    pub key_length: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// `[rows · query_length]` half-open ranges of keys of the same row; an empty one gives output 0.
    pub visible: Vec<(u32, u32)>,
}

impl AttentionPattern {
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Of `products` products between queries and the keys that they see, the fewest that the operation can do with.
    fn cost<const N: usize>(&self, arrays: [&Tensor<2>; N], products: u64) -> Cost {
        let seen = |&(start, end): &(u32, u32)| u64::from(end - start);
        let pairs: u64 = self.visible.iter().map(seen).sum();
        let width = (self.heads * self.head_dim) as u64;
        Cost::arrays(arrays).with_flops(2 * products * pairs * width)
    }

    /// Ranges of a batch that attends to itself: within its own segment (0 is padding), causally, and
    /// at most `window` positions back, the query's own included.
    pub fn visible_in_batch(
        segments: &[u32],
        length: usize,
        window: Option<usize>,
    ) -> Vec<(u32, u32)> {
        let mut visible = Vec::with_capacity(segments.len());
        for row in segments.chunks(length) {
            let mut start = 0;
            for (i, &segment) in row.iter().enumerate() {
                if i > 0 && segment != row[i - 1] {
                    start = i;
                }
                let first = window.map_or(start, |w| start.max((i + 1).saturating_sub(w)));
                visible.push(match segment {
                    0 => (i as u32, i as u32),
                    _ => (first as u32, i as u32 + 1),
                });
            }
        }
        visible
    }
}

/// The result and what the backward pass needs beside the inputs.
pub struct AttentionOutput {
    /// `[rows · query_length, heads · head_dim]`.
    pub out: Tensor<2>,
    /// Log-sum-exp of each query and head, `[rows · query_length, heads]`, where the backward pass uses it.
    pub log_sum_exp: Option<Tensor<2>>,
}

/// `q` `[rows · query_length, heads · head_dim]`, `k` and `v` `[rows · key_length, kv_heads · head_dim]`.
pub fn forward(
    pattern: &AttentionPattern,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
) -> AttentionOutput {
    let _span = operation!("attention forward", pattern.cost([q, k, v, q], 2));
    if is_host(q) {
        let (out, log_sum_exp) = forward_host(pattern, q, k, v);
        return AttentionOutput {
            out,
            log_sum_exp: Some(log_sum_exp),
        };
    }
    #[cfg(feature = "cube")]
    if super::cube::runs(q) {
        return super::cube::attention::forward(pattern, q, k, v);
    }
    let probabilities = probabilities(pattern, q, k);
    let v = repeat_kv(
        pattern,
        split(pattern, v, pattern.key_length, pattern.kv_heads),
    );
    AttentionOutput {
        out: join(probabilities.cast(v.dtype()).matmul(v)),
        log_sum_exp: None,
    }
}

/// Gradients of (`q`, `k`, `v`) from that of the output.
pub fn backward(
    pattern: &AttentionPattern,
    d_out: &Tensor<2>,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    output: &AttentionOutput,
) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let _span = operation!(
        "attention backward",
        pattern.cost([d_out, d_out, q, q, k, k, v, v], 5)
    );
    #[cfg(feature = "cube")]
    if let Some(log_sum_exp) = &output.log_sum_exp
        && super::cube::runs(q)
    {
        let output = (&output.out, log_sum_exp);
        return super::cube::attention::backward(pattern, d_out, q, k, v, output);
    }
    match &output.log_sum_exp {
        Some(log_sum_exp) => backward_host(pattern, d_out, q, k, v, &output.out, log_sum_exp),
        None => backward_formula(pattern, d_out, q, k, v),
    }
}

fn backward_formula(
    pattern: &AttentionPattern,
    d_out: &Tensor<2>,
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let dtype = q.dtype();
    let p = probabilities(pattern, q, k);
    let d_out = split(pattern, d_out, pattern.query_length, pattern.heads);
    let q = split(pattern, q, pattern.query_length, pattern.heads);
    let k = repeat_kv(
        pattern,
        split(pattern, k, pattern.key_length, pattern.kv_heads),
    );
    let v = repeat_kv(
        pattern,
        split(pattern, v, pattern.key_length, pattern.kv_heads),
    );
    let dv = p.clone().cast(dtype).transpose().matmul(d_out.clone());
    let dp = d_out.matmul(v.transpose()).cast(p.dtype());
    let inner = (p.clone() * dp.clone()).sum_dim(3);
    let ds = (p * (dp - inner)).mul_scalar(pattern.scale()).cast(dtype);
    let dq = ds.clone().matmul(k);
    let dk = ds.transpose().matmul(q);
    (
        join(dq),
        join(sum_groups(pattern, dk)),
        join(sum_groups(pattern, dv)),
    )
}

/// Softmax over the visible keys, `[rows, heads, query_length, key_length]`, `f32` or wider.
fn probabilities(pattern: &AttentionPattern, q: &Tensor<2>, k: &Tensor<2>) -> Tensor<4> {
    let q = split(pattern, q, pattern.query_length, pattern.heads);
    let k = repeat_kv(
        pattern,
        split(pattern, k, pattern.key_length, pattern.kv_heads),
    );
    let scores = q.matmul(k.transpose());
    let scores = match scores.dtype() {
        DType::F64 => scores,
        _ => scores.cast(DType::F32),
    };
    let hidden = hidden_mask(pattern, &scores);
    // A finite floor keeps rows that see nothing free of NaN; their probabilities are zeroed below.
    let scores = scores
        .mul_scalar(pattern.scale())
        .mask_fill(hidden.clone(), -1e30);
    activation::softmax(scores, 3).mask_fill(hidden, 0.0)
}

fn hidden_mask(pattern: &AttentionPattern, scores: &Tensor<4>) -> Tensor<4, Bool> {
    let keys = pattern.key_length as u32;
    let hidden: Vec<bool> = pattern
        .visible
        .iter()
        .flat_map(|&(start, end)| (0..keys).map(move |key| key < start || key >= end))
        .collect();
    let shape = [pattern.rows, 1, pattern.query_length, pattern.key_length];
    Tensor::<4, Bool>::from_data(TensorData::new(hidden, shape), &scores.device())
        .expand(scores.dims())
}

fn split(pattern: &AttentionPattern, x: &Tensor<2>, length: usize, heads: usize) -> Tensor<4> {
    x.clone()
        .reshape([pattern.rows, length, heads, pattern.head_dim])
        .swap_dims(1, 2)
}

fn join(x: Tensor<4>) -> Tensor<2> {
    let [rows, heads, length, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([rows * length, heads * head_dim])
}

fn repeat_kv(pattern: &AttentionPattern, x: Tensor<4>) -> Tensor<4> {
    let [rows, kv_heads, length, head_dim] = x.dims();
    let group = pattern.heads / kv_heads;
    x.unsqueeze_dim::<5>(2)
        .expand([rows, kv_heads, group, length, head_dim])
        .reshape([rows, pattern.heads, length, head_dim])
}

fn sum_groups(pattern: &AttentionPattern, x: Tensor<4>) -> Tensor<4> {
    let [rows, heads, length, head_dim] = x.dims();
    let (kv_heads, group) = (pattern.kv_heads, heads / pattern.kv_heads);
    x.reshape([rows, kv_heads, group, length, head_dim])
        .sum_dim(2)
        .reshape([rows, kv_heads, length, head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, random};

    fn pattern(
        segments: &[u32],
        length: usize,
        heads: (usize, usize, usize),
        window: Option<usize>,
    ) -> AttentionPattern {
        AttentionPattern {
            rows: segments.len() / length,
            query_length: length,
            key_length: length,
            heads: heads.0,
            kv_heads: heads.1,
            head_dim: heads.2,
            visible: AttentionPattern::visible_in_batch(segments, length, window),
        }
    }

    fn inputs(p: &AttentionPattern) -> [Tensor<2>; 4] {
        let (queries, keys) = (p.rows * p.query_length, p.rows * p.key_length);
        let (wide, narrow) = (p.heads * p.head_dim, p.kv_heads * p.head_dim);
        [
            random([queries, wide], 1) * 3.0,
            random([keys, narrow], 2),
            random([keys, narrow], 3),
            random([queries, wide], 4),
        ]
    }

    fn formula(p: &AttentionPattern, q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>) -> Tensor<2> {
        let v = repeat_kv(p, split(p, v, p.key_length, p.kv_heads));
        join(probabilities(p, q, k).matmul(v))
    }

    #[test]
    fn fused_equals_the_formula() {
        let long: Vec<u32> = (0..150).map(|i| 1 + i / 40).collect();
        for pattern in [
            pattern(&[1], 1, (2, 1, 4), None),
            pattern(&[1, 1, 2, 2, 2, 0], 6, (4, 2, 3), None),
            pattern(&[1, 1, 1, 1, 1, 2, 2, 0], 4, (3, 3, 5), Some(2)),
            pattern(&long, 150, (4, 2, 8), None),
            pattern(&[1; 200], 100, (6, 2, 8), Some(17)),
        ] {
            let [q, k, v, d_out] = inputs(&pattern);
            let output = forward(&pattern, &q, &k, &v);
            assert_close(&output.out, &formula(&pattern, &q, &k, &v), 1e-11);
            let (dq, dk, dv) = backward(&pattern, &d_out, &q, &k, &v, &output);
            let (eq, ek, ev) = backward_formula(&pattern, &d_out, &q, &k, &v);
            assert_close(&dq, &eq, 1e-10);
            assert_close(&dk, &ek, 1e-10);
            assert_close(&dv, &ev, 1e-10);
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let pattern = pattern(&[1, 1, 1, 2, 2, 0], 6, (4, 2, 2), None);
        let [q, k, v, d_out] = inputs(&pattern);
        let output = forward(&pattern, &q, &k, &v);
        let (dq, dk, dv) = backward(&pattern, &d_out, &q, &k, &v, &output);
        let loss = |q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>| {
            (forward(&pattern, q, k, v).out * d_out.clone()).sum()
        };
        assert_gradient(&q, &dq, |q| loss(q, &k, &v));
        assert_gradient(&k, &dk, |k| loss(&q, k, &v));
        assert_gradient(&v, &dv, |v| loss(&q, &k, v));
    }

    #[test]
    fn window_and_segments_bound_what_a_query_sees() {
        let visible = AttentionPattern::visible_in_batch(&[1, 1, 1, 2, 2, 0], 6, Some(2));
        assert_eq!(visible, [(0, 1), (0, 2), (1, 3), (3, 4), (3, 5), (5, 5)]);
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn the_kernel_equals_formula_and_loop() {
        use crate::ops::check::{pair, vulkan};
        let Some(device) = vulkan() else { return };
        let long: Vec<u32> = (0..1300).map(|i| 1 + i / 400).collect();
        let mut cached = pattern(&[1; 6], 3, (4, 2, 8), None);
        cached.key_length = 7;
        cached.visible = vec![(1, 5), (1, 6), (1, 7), (0, 5), (0, 6), (2, 2)];
        for pattern in [
            pattern(&[1], 1, (2, 1, 4), None),
            pattern(&[1, 1, 2, 2, 2, 0], 6, (4, 2, 3), None),
            pattern(&[1, 1, 1, 1, 1, 2, 2, 0], 4, (3, 3, 5), Some(2)),
            pattern(&[0, 0, 0, 1, 0, 0], 3, (2, 2, 4), None),
            pattern(&[1; 200], 100, (6, 2, 8), Some(17)),
            pattern(&long, 1300, (2, 1, 8), None),
            cached,
        ] {
            let [q, k, v, d_out] = inputs(&pattern).map(|x| pair(x, &device));
            let output = forward(&pattern, &q.0, &k.0, &v.0);
            let cpu_output = forward(&pattern, &q.1, &k.1, &v.1);
            assert_close(&output.out, &cpu_output.out, 1e-5);
            assert_close(&output.out, &formula(&pattern, &q.0, &k.0, &v.0), 1e-5);
            let got = backward(&pattern, &d_out.0, &q.0, &k.0, &v.0, &output);
            let cpu = backward(&pattern, &d_out.1, &q.1, &k.1, &v.1, &cpu_output);
            let formula = backward_formula(&pattern, &d_out.0, &q.0, &k.0, &v.0);
            for (got, cpu, formula) in [
                (&got.0, &cpu.0, &formula.0),
                (&got.1, &cpu.1, &formula.1),
                (&got.2, &cpu.2, &formula.2),
            ] {
                assert_close(got, cpu, 1e-5);
                assert_close(got, formula, 1e-5);
            }
        }
    }
}

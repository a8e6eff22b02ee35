//! Attention of one query over cached keys and values.

use crate::ops::attention_host::softmax_row;
use crate::ops::lanes::{self, Kernel, LANES, Lanes};

/// softmax(q·Kᵀ · scale) · V for one head: `q` and `out` `[head_dim]`, `keys` and `values` `[positions, head_dim]`,
/// `scores` room for as many positions.
pub(super) fn attend(
    q: &[f32],
    (keys, values): (&[f32], &[f32]),
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let scores = &mut scores[..keys.len() / q.len()];
    lanes::run(Scores { q, keys, scores });
    softmax_row(scores, (0, scores.len()), scale);
    lanes::run(WeightedSum {
        weights: scores,
        values,
        out,
    });
}

struct Scores<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    scores: &'a mut [f32],
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (q, q_rest) = self.q.as_chunks::<LANES>();
        let keys = self.keys.chunks_exact(self.q.len());
        for (key, score) in keys.zip(self.scores) {
            let (key, key_rest) = key.as_chunks::<LANES>();
            let mut sum = lanes.splat(0.0);
            for (q, key) in q.iter().zip(key) {
                sum = lanes.mul_add(lanes.load(q), lanes.load(key), sum);
            }
            let rest = q_rest.iter().zip(key_rest).map(|(q, key)| q * key);
            *score = lanes.sum(sum) + rest.sum::<f32>();
        }
    }
}

struct WeightedSum<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let head_dim = self.out.len();
        let mut done = 0;
        while head_dim - done >= 4 * LANES {
            sum_columns::<L, 4>(lanes, self.weights, self.values, done, self.out);
            done += 4 * LANES;
        }
        while head_dim - done >= LANES {
            sum_columns::<L, 1>(lanes, self.weights, self.values, done, self.out);
            done += LANES;
        }
        for (column, out) in self.out.iter_mut().enumerate().skip(done) {
            let values = self.values.chunks_exact(head_dim).map(|row| row[column]);
            *out = values.zip(self.weights).map(|(v, weight)| v * weight).sum();
        }
    }
}

/// C vectors of columns from `first`, in registers over all positions.
#[inline(always)]
fn sum_columns<L: Lanes, const C: usize>(
    lanes: L,
    weights: &[f32],
    values: &[f32],
    first: usize,
    out: &mut [f32],
) {
    let mut sums = [lanes.splat(0.0); C];
    for (weight, row) in weights.iter().zip(values.chunks_exact(out.len())) {
        let weight = lanes.splat(*weight);
        let (columns, _) = row[first..].as_chunks::<LANES>();
        for (sum, column) in sums.iter_mut().zip(&columns[..C]) {
            *sum = lanes.mul_add(weight, lanes.load(column), *sum);
        }
    }
    let (out, _) = out[first..].as_chunks_mut::<LANES>();
    for (sum, out) in sums.into_iter().zip(out) {
        lanes.store(sum, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, values};

    #[test]
    fn equals_the_formula() {
        for (positions, head_dim) in [(1, 4), (3, 8), (17, 20), (40, 64), (33, 80), (5, 128)] {
            let floats = |count: usize, seed| -> Vec<f32> {
                let random = values(&random([count, 1], seed)).into_iter();
                random.map(|value| value as f32).collect()
            };
            let (q, scale) = (floats(head_dim, 1), 0.7);
            let (k, v) = (
                floats(positions * head_dim, 2),
                floats(positions * head_dim, 3),
            );
            let (mut scores, mut out) = (vec![0.0; positions + 3], vec![0.0; head_dim]);
            attend(&q, (&k, &v), scale, &mut scores, &mut out);
            let weights: Vec<f64> = k
                .chunks(head_dim)
                .map(|k| {
                    let products = k.iter().zip(&q).map(|(k, q)| f64::from(*k) * f64::from(*q));
                    (products.sum::<f64>() * f64::from(scale)).exp()
                })
                .collect();
            for (column, out) in out.iter().enumerate() {
                let rows = v.chunks(head_dim).zip(&weights);
                let sum: f64 = rows.map(|(v, weight)| f64::from(v[column]) * weight).sum();
                let exact = sum / weights.iter().sum::<f64>();
                assert!((f64::from(*out) - exact).abs() < 2e-6, "{out} {exact}");
            }
        }
    }
}

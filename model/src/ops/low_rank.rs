//! Products of the rank of an adapter. A general product spends its time on packing its operands there; these read
//! them where they lie.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::host::{HostTensor, from_values, is_host};
use super::lanes::{self, Kernel, LANES, Lanes};

/// Tokens of one task.
const TASK: usize = 64;

/// `scale`·x·`right` for `x` `[tokens, in]` and `right` `[in, rank]`: `[tokens, rank]`, in the dtype of both.
pub fn narrow_product(x: &Tensor<2>, right: &Tensor<2>, scale: f64) -> Tensor<2> {
    if !is_host(x) || [x.dtype(), right.dtype()] != [DType::F32; 2] {
        return x.clone().matmul(right.clone()).mul_scalar(scale);
    }
    let ([tokens, input], [_, rank]) = (x.dims(), right.dims());
    let (x, right) = (HostTensor::held(x), HostTensor::held(right));
    let width = rank.next_multiple_of(LANES);
    // Whole vectors: what is beyond the rank is 0 and left out of the result.
    let mut vectors = vec![0.0; input * width];
    for (to, from) in vectors
        .chunks_mut(width)
        .zip(right.slice::<f32>().chunks(rank))
    {
        to[..rank].copy_from_slice(from);
    }
    let mut y = vec![0.0; tokens * rank];
    (y.par_chunks_mut(TASK * rank))
        .zip(x.slice::<f32>().par_chunks(TASK * input))
        .for_each(|(y, x)| {
            lanes::run(Narrow {
                x,
                right: &vectors,
                scale: scale as f32,
                sizes: [input, rank, width],
                y,
            });
        });
    from_values(y, [tokens, rank])
}

struct Narrow<'a> {
    x: &'a [f32],
    right: &'a [f32],
    scale: f32,
    /// Input, rank, and the rank in whole vectors.
    sizes: [usize; 3],
    y: &'a mut [f32],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let [input, rank, width] = self.sizes;
        let tokens = self.x.len() / input;
        for first in (0..width).step_by(LANES) {
            let count = LANES.min(rank - first);
            let mut put = |token: usize, sum: L::Floats| {
                let mut values = [0.0; LANES];
                lanes.store(lanes.mul(sum, lanes.splat(self.scale)), &mut values);
                self.y[token * rank + first..][..count].copy_from_slice(&values[..count]);
            };
            for token in (0..tokens / 8 * 8).step_by(8) {
                let sums = sums::<L, 8>(
                    lanes,
                    &self.x[token * input..],
                    self.right,
                    [input, width, first],
                );
                for (at, sum) in sums.into_iter().enumerate() {
                    put(token + at, sum);
                }
            }
            for token in tokens / 8 * 8..tokens {
                let [sum] = sums::<L, 1>(
                    lanes,
                    &self.x[token * input..],
                    self.right,
                    [input, width, first],
                );
                put(token, sum);
            }
        }
    }
}

/// Sixteen columns of the product of T rows.
#[inline(always)]
fn sums<L: Lanes, const T: usize>(
    lanes: L,
    x: &[f32],
    right: &[f32],
    [input, width, first]: [usize; 3],
) -> [L::Floats; T] {
    let rows: [&[f32]; T] = std::array::from_fn(|t| &x[t * input..][..input]);
    let mut sums = [lanes.splat(0.0); T];
    for (at, line) in right.chunks_exact(width).enumerate() {
        let line = lanes.load(line[first..].first_chunk().expect("whole vectors"));
        for (row, sum) in rows.iter().zip(&mut sums) {
            *sum = lanes.mul_add(lanes.splat(row[at]), line, *sum);
        }
    }
    sums
}

/// Adds b·a to `values` `[rows, columns]` for `b` `[rows, rank]` and `a` `[rank, columns]`.
pub fn add_low_rank(values: &mut [f32], columns: usize, b: &[f32], a: &[f32]) {
    lanes::run(Add {
        values,
        columns,
        b,
        a,
    });
}

struct Add<'a> {
    values: &'a mut [f32],
    columns: usize,
    b: &'a [f32],
    a: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let columns = self.columns;
        let rank = self.a.len() / columns;
        for (rows, b) in self
            .values
            .chunks_mut(4 * columns)
            .zip(self.b.chunks(4 * rank))
        {
            match rows.len() == 4 * columns {
                true => add_rows::<L, 4>(lanes, rows, columns, b, self.a),
                false => (rows.chunks_mut(columns).zip(b.chunks(rank)))
                    .for_each(|(row, b)| add_rows::<L, 1>(lanes, row, columns, b, self.a)),
            }
        }
    }
}

/// R rows, two vectors of columns at a time.
#[inline(always)]
fn add_rows<L: Lanes, const R: usize>(
    lanes: L,
    values: &mut [f32],
    columns: usize,
    b: &[f32],
    a: &[f32],
) {
    const PAIR: usize = 2 * LANES;
    let rank = b.len() / R;
    for first in (0..columns / PAIR * PAIR).step_by(PAIR) {
        let mut sums = [[lanes.splat(0.0); 2]; R];
        for (row, sums) in sums.iter_mut().enumerate() {
            let halves = values[row * columns + first..][..PAIR]
                .as_chunks::<LANES>()
                .0;
            *sums = [lanes.load(&halves[0]), lanes.load(&halves[1])];
        }
        for at in 0..rank {
            let halves = a[at * columns + first..][..PAIR].as_chunks::<LANES>().0;
            let halves = [lanes.load(&halves[0]), lanes.load(&halves[1])];
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = lanes.splat(b[row * rank + at]);
                for (sum, half) in sums.iter_mut().zip(halves) {
                    *sum = lanes.mul_add(factor, half, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let halves = values[row * columns + first..][..PAIR]
                .as_chunks_mut::<LANES>()
                .0;
            for (half, sum) in halves.iter_mut().zip(sums) {
                lanes.store(*sum, half);
            }
        }
    }
    for row in 0..R {
        for column in columns / PAIR * PAIR..columns {
            let sum = &mut values[row * columns + column];
            for at in 0..rank {
                *sum += b[row * rank + at] * a[at * columns + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, random};

    #[test]
    fn equal_general_products() {
        for (tokens, input, rank) in [(1, 5, 1), (70, 96, 16), (137, 33, 20), (64, 40, 8)] {
            let (x, right) = (random([tokens, input], 1), random([input, rank], 2));
            let plain = x.clone().matmul(right.clone()).mul_scalar(1.5);
            assert_close(&narrow_product(&x, &right, 1.5), &plain, 1e-13);
            let [x, right] = [x, right].map(|tensor| tensor.cast(DType::F32));
            assert_close(
                &narrow_product(&x, &right, 1.5),
                &plain.cast(DType::F32),
                1e-5,
            );
        }
    }

    #[test]
    fn add_to_every_value() {
        for (rows, columns, rank) in [(1, 7, 2), (4, 64, 16), (11, 75, 5)] {
            let [values, b, a] = [
                ([rows, columns], 1),
                ([rows, rank], 2),
                ([rank, columns], 3),
            ]
            .map(|(shape, seed)| random(shape, seed).cast(DType::F32));
            let plain = values.clone() + b.clone().matmul(a.clone());
            let mut sum = HostTensor::held(&values).slice::<f32>().to_vec();
            let (b, a) = (HostTensor::held(&b), HostTensor::held(&a));
            add_low_rank(&mut sum, columns, b.slice(), a.slice());
            assert_close(&from_values(sum, [rows, columns]), &plain, 1e-5);
        }
    }
}

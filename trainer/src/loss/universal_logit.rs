//! Universal logit distillation (Boizard et al., arXiv 2402.12030): the distance between two distributions over different
//! vocabularies, which asks for no common token.
//!
//! With p the teacher and q the student at temperature T, both sorted from the most to the least probable, and the shorter one
//! filled up with zeros:
//!
//! ```text
//! L = Σ_r |q_(r) − p_(r)|                     the Wasserstein distance between the sorted probabilities
//! ∂L/∂z_i = q_i/T · (s_i − Σ_j q_j s_j)       s_i the sign of q_(r) − p_(r) at the rank r of token i; 0 where they are equal
//! ```
//!
//! There is no factor T². Sorting happens on the host, whatever the device.
//!
//! TRL's GOLD trainer has the same distance at a position. It divides by the positions of a sample and then by the samples, we by
//! all supervised tokens of a step. It merges the probabilities of tokens between common borders, reads them one position after
//! the one that predicts (its default, `observed`) and leaves ends of turns out; we compare only where both predict from the same
//! text (see [`teacher::alignment`]), ends of turns among them.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use model::operation;
use model::ops::host::with_f32;
use model::ops::simd::widest;
use model::span::Cost;
use rayon::prelude::*;

use super::LossSums;
use super::block::{BLOCK, load};
use super::softmax::{Extremes, SumOfExponentials};

/// The loss as an objective has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniversalLogit {
    /// Place in the list of losses.
    pub slot: usize,
    pub weight: f64,
    pub temperature: f64,
}

/// What is computed of some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct UniversalRows {
    /// The sum over the rows, not times the weight.
    pub value: f64,
    /// Of `scale · weight · value` by the student's logits, `[rows, columns]`.
    pub gradient: Vec<f32>,
}

impl UniversalLogit {
    /// The loss of rows of logits: those of `student` `[rows, columns of student]` that `chosen` lists against all of `teacher`.
    /// Of both the first columns (`valid`: student, teacher) are tokens; others have a probability of 0 and no gradient. Rows are
    /// shared out among threads, their values added in order.
    pub fn rows(
        &self,
        (student, columns): (&[f32], usize),
        chosen: &[usize],
        (teacher, teacher_columns): (&[f32], usize),
        valid: (usize, usize),
        scale: f64,
    ) -> UniversalRows {
        let mut gradient = vec![0.0; chosen.len() * columns];
        let values: Vec<f64> = gradient
            .par_chunks_mut(columns.max(1))
            .zip(teacher.par_chunks(teacher_columns.max(1)))
            .zip(chosen)
            .map(|((gradient, teacher), &row)| {
                let student = &student[row * columns..][..valid.0];
                self.row(
                    student,
                    &teacher[..valid.1],
                    scale,
                    &mut gradient[..valid.0],
                )
            })
            .collect();
        UniversalRows {
            value: values.iter().sum(),
            gradient,
        }
    }

    /// The value of one position; its gradient, times weight and scale, goes to `gradient`.
    fn row(&self, student: &[f32], teacher: &[f32], scale: f64, gradient: &mut [f32]) -> f64 {
        // A probability is not negative, so its bits are in its order.
        let mut keys: Vec<u64> = Vec::with_capacity(student.len());
        self.probabilities(student, |column, q| {
            keys.push(u64::from(q.to_bits()) << 32 | u64::from(u32::MAX - column as u32));
        });
        let mut sorted: Vec<u32> = Vec::with_capacity(teacher.len());
        self.probabilities(teacher, |_, p| sorted.push(p.to_bits()));
        keys.sort_unstable_by(|a, b| b.cmp(a));
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let (mut value, mut mean) = (0.0, 0.0);
        for (rank, key) in keys.iter().enumerate() {
            let q = f64::from(f32::from_bits((key >> 32) as u32));
            let p = sorted
                .get(rank)
                .map_or(0.0, |p| f64::from(f32::from_bits(*p)));
            let difference = q - p;
            value += difference.abs();
            let sign = match difference == 0.0 {
                true => 0.0,
                false => difference.signum(),
            };
            mean += q * sign;
            gradient[(u32::MAX - *key as u32) as usize] = sign as f32;
        }
        let rest = sorted.iter().skip(keys.len());
        value += rest.map(|p| f64::from(f32::from_bits(*p))).sum::<f64>();
        let factor = self.weight * scale / self.temperature;
        for key in &keys {
            let q = f64::from(f32::from_bits((key >> 32) as u32));
            let to = &mut gradient[(u32::MAX - *key as u32) as usize];
            *to = (factor * q * (f64::from(*to) - mean)) as f32;
        }
        value
    }

    /// Hands over the probability of each column in turn.
    fn probabilities(&self, logits: &[f32], mut take: impl FnMut(usize, f32)) {
        let inverse = (1.0 / self.temperature) as f32;
        widest(
            #[inline(always)]
            || {
                let extremes = Extremes::of(logits);
                let mut sum = SumOfExponentials::default();
                let (mut block, mut out) = ([0.0; BLOCK], [0.0; BLOCK]);
                for columns in logits.chunks(BLOCK) {
                    load(columns, &mut block);
                    sum.add(&block, &extremes, inverse, &mut out);
                }
                let softmax = sum.finish(&extremes, inverse);
                for (number, columns) in logits.chunks(BLOCK).enumerate() {
                    load(columns, &mut block);
                    softmax.probabilities(&block, &mut out);
                    for (column, p) in out[..columns.len()].iter().enumerate() {
                        take(number * BLOCK + column, *p);
                    }
                }
            },
        );
    }

    /// As [`Self::rows`] of tensors: the gradient of the chosen rows of `student`, on its device and in its dtype.
    pub(super) fn chunk(
        &self,
        student: &Tensor<2>,
        chosen: &[usize],
        teacher: Tensor<2>,
        valid: (usize, usize),
        scale: f64,
        values: &mut LossSums,
    ) -> Tensor<2> {
        let _span = operation!("universal logit loss", Cost::arrays([student, &teacher]));
        let (columns, teacher_columns) = (student.dims()[1], teacher.dims()[1]);
        let teacher = on_host(teacher.cast(DType::F32));
        let wide = student.clone().cast(DType::F32);
        let rows = |student: &[f32]| {
            let teacher = (teacher.as_slice(), teacher_columns);
            self.rows((student, columns), chosen, teacher, valid, scale)
        };
        let found = with_f32(&wide, rows);
        match values {
            LossSums::Host(values) => values[self.slot] += found.value,
            LossSums::Device(sums) => {
                let mut added = vec![0.0_f32; sums.dims()[0]];
                added[self.slot] = found.value as f32;
                let data = TensorData::new(added, sums.dims());
                **sums = *sums.clone() + Tensor::from_data(data, (&sums.device(), DType::F32));
            }
        }
        let data = TensorData::new(found.gradient, [chosen.len(), columns]);
        let gradient = Tensor::<2>::from_data(data, (&student.device(), DType::F32));
        gradient.cast(student.dtype())
    }
}

/// Adds rows to the `chosen` ones of a matrix.
pub(super) fn add_rows(to: Tensor<2>, chosen: &[usize], rows: Tensor<2>) -> Tensor<2> {
    let index: Vec<i32> = chosen.iter().map(|row| *row as i32).collect();
    let data = TensorData::new(index, [chosen.len()]);
    let index = Tensor::<1, Int>::from_data(data, (&to.device(), DType::I32));
    to.select_assign(0, index, rows, IndexingUpdateOp::Add)
}

fn on_host(logits: Tensor<2>) -> Vec<f32> {
    let data = logits.into_data();
    data.try_to_vec().expect("logits were cast to f32")
}

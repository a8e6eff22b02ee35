//! Losses against a teacher of which only a few tokens a position are known (see [`SparseTargets`]).
//!
//! With p the listed probabilities, r the tail, q the student at temperature T, and q_r the probability that the student
//! gives to all tokens of the teacher that are not listed:
//!
//! ```text
//! L = Σ p ln(p/q) + r ln(r/q_r)        with a tail: the KL divergence of the list and one bucket more
//! L = −Σ p ln q − H                    without one: H is the teacher's entropy, p counts of draws
//! ∂L/∂s = q − p                        listed
//! ∂L/∂s = q · (1 − r/q_r)              not listed
//! ∂L/∂s = q                            the student's padding
//! ```
//!
//! The second form's gradient is that of the whole distribution on average over draws. A list of the whole vocabulary gives
//! forward KL itself. Of a position that nothing is known of, only its label is learned. Other divergences are no linear functions of p and are not defined here.

use model::ops::real::Real;
use model::ops::simd::widest;
use rayon::prelude::*;
use teacher::sparse_targets::SparseTargets;

use super::block::{BLOCK, LaneSum};
use super::config::LossConfig;
use super::rows::{LossRowsError, check_labels};
use super::{Labels, LossEntries};

/// Whether a loss is defined where only a few of the teacher's probabilities are known. Labels need no teacher at all.
pub fn is_defined(loss: &LossConfig) -> bool {
    matches!(loss, LossConfig::ForwardKl(_) | LossConfig::CrossEntropy(_))
}

/// As [`super::loss_rows`], for rows that are all supervised: row i of `student` `[rows, columns]` has position `first + i` of
/// `targets`.
///
/// # Errors
/// A loss that is not defined here; lengths that do not fit; a label or a target beyond the columns.
pub fn sparse_rows<F: Real>(
    entries: &LossEntries,
    columns: usize,
    student: &mut [F],
    (targets, first): (&SparseTargets, usize),
    labels: Labels,
    scale: F,
    values: &mut [f64],
) -> Result<(), LossRowsError> {
    check(entries, columns, targets, first, labels)?;
    let rows = labels.targets.len();
    let length = |what, expected, got| match expected == got {
        true => Ok(()),
        false => Err(LossRowsError::Length {
            what,
            expected,
            got,
        }),
    };
    length("student logits", rows * columns, student.len())?;
    length("values", entries.count(), values.len())?;
    let count = entries.count();
    let mut row_values = vec![0.0; rows * count];
    student
        .par_chunks_mut(columns.max(1))
        .zip(row_values.par_chunks_mut(count))
        .enumerate()
        .for_each(|(i, (student, values))| {
            let (ids, probabilities) = targets.entries(first + i);
            let row = SparseRow {
                entries,
                student,
                vocabulary: targets.vocabulary,
                ids,
                probabilities,
                is_known: targets.is_known(first + i),
                tail: targets.tails[first + i],
                entropy: targets.entropies[first + i],
                label: labels.targets[i] as usize,
                scale: scale.to_f64(),
                values,
            };
            widest(
                #[inline(always)]
                || row.run(),
            );
        });
    for row in row_values.chunks(count) {
        for (sum, value) in values.iter_mut().zip(row) {
            *sum += value;
        }
    }
    Ok(())
}

/// What has to hold before rows are computed, on any device.
pub(super) fn check(
    entries: &LossEntries,
    columns: usize,
    targets: &SparseTargets,
    first: usize,
    labels: Labels,
) -> Result<(), LossRowsError> {
    if let Some(loss) = entries.configs().iter().find(|loss| !is_defined(loss)) {
        return Err(LossRowsError::NotSparse { loss: loss.name() });
    }
    let rows = labels.targets.len();
    if targets.len() < first + rows {
        return Err(LossRowsError::Length {
            what: "stored targets",
            expected: first + rows,
            got: targets.len(),
        });
    }
    if targets.vocabulary > columns {
        return Err(LossRowsError::TooFewColumns {
            side: "student",
            columns,
            valid: targets.vocabulary,
        });
    }
    check_labels(entries, columns, labels)
}

struct SparseRow<'a, F> {
    entries: &'a LossEntries,
    student: &'a mut [F],
    vocabulary: usize,
    ids: &'a [u32],
    probabilities: &'a [f32],
    is_known: bool,
    tail: f32,
    entropy: f64,
    label: usize,
    scale: f64,
    values: &'a mut [f64],
}

/// A group's sums over the row, each part from its own largest logit.
struct Normalised {
    /// `ln Σ exp(x/T − largest/T)` over all columns.
    log_sum: f64,
    /// `Σ exp((x − largest of the rest)/T)` over what is not listed.
    rest: f64,
    /// `exp((largest of the rest − largest)/T)`
    rest_shift: f64,
}

impl<F: Real> SparseRow<'_, F> {
    #[inline(always)]
    fn run(self) {
        let label_logit = match self.entries.needs_labels() {
            true => self.student[self.label].to_f64(),
            false => 0.0,
        };
        let listed: Vec<f64> = (self.ids.iter())
            .map(|id| {
                std::mem::replace(&mut self.student[*id as usize], F::MASKED)
                    .to_f64()
                    .max(F::MASKED.to_f64())
            })
            .collect();
        let (rest, padding) = self.student.split_at_mut(self.vocabulary);
        let rest_largest = largest(rest);
        let listed_largest = listed.iter().copied().fold(F::MASKED.to_f64(), f64::max);
        let top = rest_largest
            .to_f64()
            .max(largest(padding).to_f64())
            .max(listed_largest);
        // A row without any finite logit has no distribution.
        let top = match top > F::MASKED.to_f64() {
            true => top,
            false => f64::NAN,
        };
        let has_rest = rest_largest.to_f64().is_nan() || rest_largest > F::MASKED;
        let tail = match has_rest {
            true => f64::from(self.tail),
            false => 0.0,
        };

        let groups = &self.entries.groups;
        // A loop, not a closure: that would not be compiled for the wide instructions.
        let mut normalised = Vec::with_capacity(groups.len());
        for group in groups {
            let inverse = 1.0 / group.temperature;
            let (in_rest, rest_shift) = match has_rest {
                true => (
                    sum(rest, rest_largest, F::from_f64(inverse)),
                    ((rest_largest.to_f64() - top) * inverse).exp(),
                ),
                false => (0.0, 0.0),
            };
            let in_list: f64 = listed.iter().map(|x| ((x - top) * inverse).exp()).sum();
            let in_padding = sum(padding, F::from_f64(top), F::from_f64(inverse));
            normalised.push(Normalised {
                log_sum: (in_rest * rest_shift + in_list + in_padding).ln(),
                rest: in_rest,
                rest_shift,
            });
        }

        let weights: Vec<(f64, f64)> = (groups.iter())
            .map(|group| {
                let divergences: f64 = match self.is_known {
                    true => group.divergences.iter().map(|t| t.gradient_factor).sum(),
                    false => 0.0,
                };
                let labels: f64 = group.labels.iter().map(|t| t.weight).sum();
                (divergences * self.scale, labels * self.scale)
            })
            .collect();
        let terms = || groups.iter().zip(&normalised).zip(&weights);

        let of_rest: Vec<(F, F)> = terms()
            .map(|((group, n), (divergences, labels))| {
                let share = n.rest_shift * (-n.log_sum).exp() * (divergences + labels);
                let pull = match tail > 0.0 {
                    true => divergences * tail / n.rest,
                    false => 0.0,
                };
                let inverse = F::from_f64(1.0 / group.temperature);
                (inverse, F::from_f64(share - pull))
            })
            .collect();
        scale_exponentials(rest, rest_largest, &of_rest);
        let of_padding: Vec<(F, F)> = terms()
            .map(|((group, n), (divergences, labels))| {
                let share = (-n.log_sum).exp() * (divergences + labels);
                (F::from_f64(1.0 / group.temperature), F::from_f64(share))
            })
            .collect();
        scale_exponentials(padding, F::from_f64(top), &of_padding);

        for ((&id, &p), x) in self.ids.iter().zip(self.probabilities).zip(&listed) {
            let gradient: f64 = terms()
                .map(|((group, n), (divergences, labels))| {
                    let q = ((x - top) / group.temperature - n.log_sum).exp();
                    (divergences + labels) * q - divergences * f64::from(p)
                })
                .sum();
            self.student[id as usize] = F::from_f64(gradient);
        }
        for (group, n) in groups.iter().zip(&normalised) {
            let log_q = |x: f64| (x - top) / group.temperature - n.log_sum;
            for term in &group.divergences {
                let of_list: f64 = (self.probabilities.iter().zip(&listed))
                    .filter(|(p, _)| **p > 0.0)
                    .map(|(p, x)| match *x <= F::MASKED.to_f64() {
                        true => f64::INFINITY,
                        false => -f64::from(*p) * log_q(*x),
                    })
                    .sum();
                let of_tail = match tail > 0.0 {
                    true => -tail * (n.rest.ln() + log_q(rest_largest.to_f64())),
                    false => 0.0,
                };
                self.values[term.slot] += term.value_factor * (of_list + of_tail - self.entropy);
            }
            for term in &group.labels {
                self.values[term.slot] += match label_logit <= F::MASKED.to_f64() {
                    true => f64::INFINITY,
                    false => -log_q(label_logit),
                };
                self.student[self.label] += F::from_f64(-term.weight * self.scale);
            }
        }
    }
}

/// [`Real::MASKED`] where no column is above it.
#[inline(always)]
fn largest<F: Real>(columns: &[F]) -> F {
    let mut lanes = [F::MASKED; 16];
    let chunks = columns.chunks_exact(16);
    for x in chunks.remainder() {
        lanes[0] = lanes[0].maximum(*x);
    }
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.maximum(*x);
        }
    }
    lanes.into_iter().fold(F::MASKED, Real::maximum)
}

/// `Σ exp((x − from)/T)`
#[inline(always)]
fn sum<F: Real>(columns: &[F], from: F, inverse_temperature: F) -> f64 {
    let mut sum = LaneSum::default();
    let mut block = [F::ZERO; BLOCK];
    for columns in columns.chunks(BLOCK) {
        for (e, x) in block.iter_mut().zip(columns) {
            let x = if *x < F::MASKED { F::MASKED } else { *x };
            *e = ((x - from) * inverse_temperature).exp();
        }
        block[columns.len()..].fill(F::ZERO);
        sum.add(&block);
    }
    sum.total()
}

/// Replaces each x by `Σ factor · exp((x − from)/T)` over the groups.
#[inline(always)]
fn scale_exponentials<F: Real>(columns: &mut [F], from: F, groups: &[(F, F)]) {
    let mut total = [F::ZERO; BLOCK];
    for columns in columns.chunks_mut(BLOCK) {
        total.fill(F::ZERO);
        for (inverse_temperature, factor) in groups {
            for (to, x) in total.iter_mut().zip(columns.iter()) {
                let x = if *x < F::MASKED { F::MASKED } else { *x };
                *to += *factor * ((x - from) * *inverse_temperature).exp();
            }
        }
        columns.copy_from_slice(&total[..columns.len()]);
    }
}

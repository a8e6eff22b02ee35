//! The kernel: all losses of one position over the vocabulary, values and gradient, without temporary rows.
//!
//! Passes over the row: largest logit; sums of exponentials; means of `q·h`, only for divergences that do not know theirs;
//! gradient, together with the values that are left. Forward KL and cross-entropy take three.

use super::block::{BLOCK, LaneSum, load};
use super::cross_entropy;
use super::entries::{Group, LossEntries};
use super::softmax::{Extremes, Softmax, SumOfExponentials};
use model::ops::real::Real;
use model::ops::simd::widest;

/// Adds one position's losses to `values` and replaces its logits by their gradient.
///
/// - `student`: logits in; out comes `scale · Σ weight · ∂loss/∂logits`.
/// - `teacher`: logits over the teacher's vocabulary; needed if [`LossEntries::needs_teacher_logits`].
/// - `valid`: the first `valid` columns are real tokens that both know. The others count as −∞ on both sides, whatever they
///   hold, and get a gradient of 0.
/// - `label`: the column of the true token, for cross-entropy.
/// - `scale`: commonly 1/N, N the supervised tokens of the global batch. It is in the gradient, not in the values.
/// - `values`: one sum an entry, already times T² where that applies, but neither times the weight nor the scale.
///
/// Logits of −∞ (anything at or below −1e30) have a probability of exactly 0. Where a divergence is then +∞ its value is
/// +∞ and its gradient meaningless; a NaN logit, or a row without any finite logit, gives NaN.
///
/// # Panics
/// Where the teacher is missing, a row is shorter than `valid`, or cross-entropy's label is not below `valid`.
pub fn accumulate_row<F: Real>(
    entries: &LossEntries,
    student: &mut [F],
    teacher: Option<&[F]>,
    valid: usize,
    label: u32,
    scale: F,
    values: &mut [f64],
) {
    assert_eq!(values.len(), entries.count(), "one value an entry");
    let (real, padding) = student.split_at_mut(valid);
    padding.fill(F::ZERO);
    let teacher = match teacher {
        Some(row) if entries.needs_teacher_logits() => Some(&row[..valid]),
        None if entries.needs_teacher_logits() => panic!("these losses need the teacher's logits"),
        _ => None,
    };
    let row = Row {
        entries,
        student: real,
        teacher,
        label: label as usize,
        scale,
        values,
    };
    widest(
        #[inline(always)]
        || row.run(),
    );
}

struct Row<'a, F> {
    entries: &'a LossEntries,
    student: &'a mut [F],
    /// None where no loss compares with it.
    teacher: Option<&'a [F]>,
    label: usize,
    scale: F,
    values: &'a mut [f64],
}

/// A block as a divergence sees it.
struct Columns<F> {
    student: [F; BLOCK],
    teacher: [F; BLOCK],
    q: [F; BLOCK],
    p: [F; BLOCK],
    log_ratio: [F; BLOCK],
    f: [F; BLOCK],
    qh: [F; BLOCK],
}

/// A group's distributions in this row.
struct Distributions<'a, F> {
    group: &'a Group,
    inverse_temperature: F,
    student: Softmax<F>,
    teacher: Option<Softmax<F>>,
    /// Difference of the two log sums, student's less teacher's, as `F` holds it, and what it does not hold.
    ratio_offset: F,
    ratio_residue: f64,
    sums: Vec<TermSums<F>>,
}

#[derive(Clone, Copy)]
struct TermSums<F> {
    value: LaneSum,
    mean: LaneSum,
    /// `Σ q·h`, once it is known.
    known_mean: Option<F>,
}

impl<F: Real> Row<'_, F> {
    #[inline(always)]
    fn run(self) {
        let label_logit = if self.entries.needs_labels() {
            self.student[self.label]
        } else {
            F::ZERO
        };
        let mut c = Columns {
            student: [F::ZERO; BLOCK],
            teacher: [F::ZERO; BLOCK],
            q: [F::ZERO; BLOCK],
            p: [F::ZERO; BLOCK],
            log_ratio: [F::ZERO; BLOCK],
            f: [F::ZERO; BLOCK],
            qh: [F::ZERO; BLOCK],
        };
        let (mut distributions, has_masked) = self.normalise(&mut c);
        let diverging = if has_masked {
            self.one_sided_columns()
        } else {
            (false, false)
        };

        if distributions
            .iter()
            .flat_map(|d| &d.sums)
            .any(|s| s.known_mean.is_none())
        {
            for start in (0..self.student.len()).step_by(BLOCK) {
                c.load(self.student, self.teacher, start);
                for d in &mut distributions {
                    c.add_means(d);
                }
            }
            for sums in distributions.iter_mut().flat_map(|d| &mut d.sums) {
                sums.known_mean = sums.known_mean.or(Some(F::from_f64(sums.mean.total())));
            }
        }

        for start in (0..self.student.len()).step_by(BLOCK) {
            c.load(self.student, self.teacher, start);
            let mut gradient = [F::ZERO; BLOCK];
            for d in &mut distributions {
                c.add_gradient(d, self.scale, &mut gradient);
            }
            let end = self.student.len().min(start + BLOCK);
            self.student[start..end].copy_from_slice(&gradient[..end - start]);
        }

        for d in &distributions {
            for (term, sums) in d.group.divergences.iter().zip(&d.sums) {
                let sum = sums.value.total() - term.divergence.ratio_slope() * d.ratio_residue;
                let infinite = term.divergence.diverges(diverging.0, diverging.1);
                self.values[term.slot] += if infinite {
                    f64::INFINITY
                } else {
                    term.value_factor * sum
                };
            }
            for term in &d.group.labels {
                self.values[term.slot] += cross_entropy::value(&d.student, label_logit);
                self.student[self.label] += -(F::from_f64(term.weight) * self.scale);
            }
        }
    }
}

impl<'a, F: Real> Row<'a, F> {
    /// The distributions of every group, and whether a logit of either side is −∞.
    #[inline(always)]
    fn normalise(&self, c: &mut Columns<F>) -> (Vec<Distributions<'a, F>>, bool) {
        let student = Extremes::of(self.student);
        let teacher = self.teacher.map(|row| Extremes::of(row));
        let groups = &self.entries.groups;
        let mut sums =
            vec![(SumOfExponentials::default(), SumOfExponentials::default()); groups.len()];
        for start in (0..self.student.len()).step_by(BLOCK) {
            c.load(self.student, self.teacher, start);
            for (group, (student_sum, teacher_sum)) in groups.iter().zip(&mut sums) {
                let inverse = F::from_f64(1.0 / group.temperature);
                student_sum.add(&c.student, &student, inverse, &mut c.q);
                if let (Some(teacher), false) = (&teacher, group.divergences.is_empty()) {
                    teacher_sum.add(&c.teacher, teacher, inverse, &mut c.p);
                }
            }
        }
        let finish = |(group, (student_sum, teacher_sum)): (
            &'a Group,
            &(SumOfExponentials, SumOfExponentials),
        )| {
            let inverse_temperature = F::from_f64(1.0 / group.temperature);
            let q = student_sum.finish(&student, inverse_temperature);
            let used = teacher.as_ref().filter(|_| !group.divergences.is_empty());
            let p = used.map(|extremes| teacher_sum.finish(extremes, inverse_temperature));
            let offset = p.as_ref().map_or(0.0, |p| q.log_sum - p.log_sum);
            let ratio_offset = F::from_f64(offset);
            let sums = group.divergences.iter().map(|term| TermSums {
                value: LaneSum::default(),
                mean: LaneSum::default(),
                known_mean: term.divergence.known_mean().map(F::from_f64),
            });
            Distributions {
                group,
                inverse_temperature,
                student: q,
                teacher: p,
                ratio_offset,
                ratio_residue: offset - ratio_offset.to_f64(),
                sums: sums.collect(),
            }
        };
        let has_masked = student.has_masked || teacher.is_some_and(|t| t.has_masked);
        (groups.iter().zip(&sums).map(finish).collect(), has_masked)
    }

    /// Whether there are columns where only the student, and columns where only the teacher, is at −∞.
    fn one_sided_columns(&self) -> (bool, bool) {
        let Some(teacher) = self.teacher else {
            return (false, false);
        };
        self.student.iter().zip(teacher).fold(
            (false, false),
            |(student_lacks, teacher_lacks), (&s, &t)| {
                let (s, t) = (s <= F::MASKED, t <= F::MASKED);
                (student_lacks || (s && !t), teacher_lacks || (t && !s))
            },
        )
    }
}

impl<F: Real> Columns<F> {
    #[inline(always)]
    fn load(&mut self, student: &[F], teacher: Option<&[F]>, start: usize) {
        let end = student.len().min(start + BLOCK);
        load(&student[start..end], &mut self.student);
        if let Some(teacher) = teacher {
            load(&teacher[start..end], &mut self.teacher);
        }
    }

    /// Probabilities at a group's temperature, and log ratios where a divergence wants them.
    #[inline(always)]
    fn distribute(&mut self, d: &Distributions<F>) {
        d.student.probabilities(&self.student, &mut self.q);
        if let Some(teacher) = &d.teacher {
            teacher.probabilities(&self.teacher, &mut self.p);
            // Logits are taken from their row's largest first: a shift of a whole row, which means nothing, would
            // otherwise cost digits.
            let (student_max, teacher_max) = (d.student.max, teacher.max);
            for i in 0..BLOCK {
                let difference = (self.student[i] - student_max) - (self.teacher[i] - teacher_max);
                self.log_ratio[i] = difference * d.inverse_temperature - d.ratio_offset;
            }
        }
    }

    #[inline(always)]
    fn add_means(&mut self, d: &mut Distributions<F>) {
        if d.sums.iter().all(|s| s.known_mean.is_some()) {
            return;
        }
        self.distribute(d);
        for (term, sums) in d.group.divergences.iter().zip(&mut d.sums) {
            if sums.known_mean.is_none() {
                term.divergence.columns(
                    &self.p,
                    &self.q,
                    &self.log_ratio,
                    &mut self.f,
                    &mut self.qh,
                );
                sums.mean.add(&self.qh);
            }
        }
    }

    #[inline(always)]
    fn add_gradient(&mut self, d: &mut Distributions<F>, scale: F, gradient: &mut [F; BLOCK]) {
        self.distribute(d);
        for (term, sums) in d.group.divergences.iter().zip(&mut d.sums) {
            let Some(mean) = sums.known_mean else {
                continue;
            };
            term.divergence
                .columns(&self.p, &self.q, &self.log_ratio, &mut self.f, &mut self.qh);
            sums.value.add(&self.f);
            let factor = F::from_f64(term.gradient_factor) * scale;
            for ((to, &qh), &q) in gradient.iter_mut().zip(&self.qh).zip(&self.q) {
                *to += factor * (qh - q * mean);
            }
        }
        for term in &d.group.labels {
            let factor = F::from_f64(term.weight) * scale;
            for (to, &q) in gradient.iter_mut().zip(&self.q) {
                *to += factor * q;
            }
        }
    }
}

//! Loss and gradient straight from hidden states and the head: the logits of a whole batch are never
//! held, only those of a chunk of positions, and unsupervised positions cost nothing.

use burn::tensor::{DType, Int, Tensor, TensorData};
use model::linear::Weight;
use model::ops::host::{HostTensor, is_host, map_in_place};
use model::ops::real::Real;
use model::score::chunk_rows;
use model::span::Cost;
use model::{for_real, operation, phase};
use teacher::sparse_targets::SparseTargets;

use super::formula;
use super::sparse::sparse_rows;
use super::sparse_formula::sparse_chunk;
use super::universal_logit::add_rows;
use super::{Labels, LossEntries, LossRowsError, LossSums, Vocabulary, loss_rows};

/// Hidden states `[tokens, width]` and head `[vocabulary, width]` of the teacher.
#[derive(Debug, Clone)]
pub struct TeacherStates {
    pub hidden: Tensor<2>,
    pub head: Weight,
}

/// A teacher that reads the text in tokens of its own.
#[derive(Debug, Clone)]
pub struct AlignedStates {
    pub states: TeacherStates,
    /// Of each supervised position in order the teacher's row that predicts from the same text, where there is one.
    pub partners: Vec<Option<u32>>,
    /// Leading columns of the teacher's head that are tokens.
    pub valid: usize,
}

/// What the losses compare with.
#[derive(Debug, Clone, Copy)]
pub enum TeacherSignal<'a> {
    States(&'a TeacherStates),
    Aligned(&'a AlignedStates),
    /// The supervised positions in their order.
    Targets(&'a SparseTargets),
}

impl<'a> From<&'a TeacherStates> for TeacherSignal<'a> {
    fn from(states: &'a TeacherStates) -> Self {
        Self::States(states)
    }
}

/// The loss of a batch and its gradient by the student's hidden states.
pub struct LinearLoss {
    /// One sum over supervised positions an entry, times T² where that belongs, not times its weight.
    pub values: LossSums,
    /// `[tokens, width]`; zero at unsupervised positions.
    pub d_hidden: Tensor<2>,
}

/// Computes the losses of `entries` over the supervised positions of `hidden` `[tokens, width]`, adds
/// the head's gradient to `head` and returns the rest. Gradients are of `scale · Σ weight · value`.
///
/// `shared` is how many leading vocabulary entries are real tokens of both models, or, where theirs are different
/// vocabularies, of the student. The teacher gives all
/// others a probability of 0. The student's own padding columns stay in its softmax, so that it learns
/// to give them none; but not in a reverse KL, which would be infinite: there they count as −∞.
///
/// # Errors
/// A label beyond `valid`, a loss that needs a teacher where there is none, or one that is not defined on stored targets.
pub fn linear_loss(
    entries: &LossEntries,
    hidden: &Tensor<2>,
    head: &mut Weight,
    teacher: Option<TeacherSignal>,
    labels: Labels,
    shared: usize,
    scale: f64,
) -> Result<LinearLoss, LossRowsError> {
    let _phase = phase!("loss");
    let positions: Vec<i32> = (0..labels.supervised.len())
        .filter(|&i| labels.supervised[i])
        .map(|i| i as i32)
        .collect();
    let targets: Vec<u32> = positions
        .iter()
        .map(|&i| labels.targets[i as usize])
        .collect();
    let (teacher, aligned, stored) = match teacher {
        Some(TeacherSignal::States(states)) => (Some(states), None, None),
        Some(TeacherSignal::Aligned(aligned)) => (None, Some(aligned), None),
        Some(TeacherSignal::Targets(targets)) => (None, None, Some(targets)),
        None => (None, None, None),
    };
    let universal = aligned.zip(entries.universal);
    let vocabulary = Vocabulary {
        student: head.rows(),
        teacher: teacher.map_or(0, |t| t.head.rows()),
        valid: match teacher {
            Some(_) if entries.has_reverse_kl() => shared,
            _ => head.rows(),
        },
    };
    let vocabulary = Vocabulary {
        teacher: vocabulary.teacher.max(vocabulary.valid),
        ..vocabulary
    };
    let mut values = LossSums::zeros(entries.count(), hidden);
    let mut d_hidden = hidden.zeros_like();
    if !entries.needs_labels() && !entries.needs_teacher_logits() && universal.is_none() {
        return Ok(LinearLoss { values, d_hidden });
    }
    let teacher = teacher.filter(|_| entries.needs_teacher_logits());
    let weight = head.cast(hidden.dtype());
    let teacher_head = teacher.map(|t| t.head.cast(t.hidden.dtype()));
    let aligned_head = aligned.map(|a| a.states.head.cast(a.states.hidden.dtype()));
    let widest = (vocabulary.student.max(vocabulary.teacher))
        .max(aligned_head.as_ref().map_or(0, Weight::rows));
    let rows = even_chunk(positions.len(), chunk_rows(widest));
    let chunks = positions.chunks(rows).zip(targets.chunks(rows));
    for (number, (chunk, targets)) in chunks.enumerate() {
        let index = index(chunk, hidden);
        let h = hidden.clone().select(0, index.clone());
        let logits = {
            let _span = operation!("logits", Cost::weight_product(&h, &weight));
            weight.forward(&h)
        };
        let teacher_logits = teacher.zip(teacher_head.as_ref()).map(|(t, head)| {
            let h = t.hidden.clone().select(0, index.clone());
            let _span = operation!("teacher logits", Cost::weight_product(&h, head));
            let logits = head.forward(&h);
            without_padding(logits, shared, vocabulary.teacher)
        });
        let across = universal.zip(aligned_head.as_ref());
        let across = across.and_then(|((aligned, loss), head)| {
            let partners = &aligned.partners[number * rows..][..chunk.len()];
            let chosen: Vec<usize> = (0..chunk.len())
                .filter(|&row| partners[row].is_some())
                .collect();
            let of_teacher: Vec<i32> = partners.iter().flatten().map(|row| *row as i32).collect();
            if chosen.is_empty() {
                return None;
            }
            let states = &aligned.states.hidden;
            let h = states.clone().select(0, self::index(&of_teacher, states));
            let teacher = {
                let _span = operation!("teacher logits", Cost::weight_product(&h, head));
                head.forward(&h)
            };
            let valid = (shared, aligned.valid);
            let gradient = loss.chunk(&logits, &chosen, teacher, valid, scale, &mut values);
            Some((chosen, gradient))
        });
        let d_logits = match stored {
            Some(stored) => {
                let stored = (stored, number * rows);
                sparse_loss(entries, logits, stored, targets, scale, &mut values)?
            }
            None => chunk_loss(
                entries,
                vocabulary,
                logits,
                teacher_logits,
                targets,
                scale,
                &mut values,
            )?,
        };
        let d_logits = match across {
            Some((chosen, gradient)) => add_rows(d_logits, &chosen, gradient),
            None => d_logits,
        };
        let d_chunk = {
            let _span = operation!("head backward", Cost::weight_product(&d_logits, &weight));
            weight.backward(&d_logits)
        };
        head.accumulate_product(&d_logits, &h);
        let add = burn::tensor::IndexingUpdateOp::Add;
        d_hidden = d_hidden.select_assign(0, index, d_chunk, add);
    }
    Ok(LinearLoss { values, d_hidden })
}

/// Positions of a chunk when `count` go into as few as `most` allows, all about as long: every chunk reads the whole head.
pub fn even_chunk(count: usize, most: usize) -> usize {
    count.div_ceil(count.div_ceil(most).max(1)).max(1)
}

/// Teacher logits `[rows, columns]` in which only the first `shared` columns can be probable.
fn without_padding(logits: Tensor<2>, shared: usize, columns: usize) -> Tensor<2> {
    let [rows, found] = logits.dims();
    if shared == columns && found == columns {
        return logits;
    }
    let options = (&logits.device(), logits.dtype());
    let padding = Tensor::full([rows, columns - shared], f32::MASKED, options);
    Tensor::cat(vec![logits.narrow(1, 0, shared), padding], 1)
}

/// Gradient by the logits of one chunk; adds to `values`.
pub(super) fn chunk_loss(
    entries: &LossEntries,
    vocabulary: Vocabulary,
    logits: Tensor<2>,
    teacher: Option<Tensor<2>>,
    targets: &[u32],
    scale: f64,
    values: &mut LossSums,
) -> Result<Tensor<2>, LossRowsError> {
    let labels = Labels {
        targets,
        supervised: &vec![true; targets.len()],
    };
    let _span = operation!(
        "loss of rows",
        Cost::arrays(teacher.iter().chain([&logits; 2]))
    );
    let values = match values {
        LossSums::Host(values) => values,
        #[cfg(feature = "cube")]
        LossSums::Device(sums) => {
            let rows = super::cube::rows::loss_rows;
            return rows(entries, vocabulary, logits, teacher, labels, scale, sums);
        }
        #[cfg(not(feature = "cube"))]
        LossSums::Device(_) => unreachable!("this program knows no device"),
    };
    if !is_host(&logits) {
        return formula::chunk_loss(entries, vocabulary, logits, teacher, labels, scale, values);
    }
    for_real!(logits.dtype(), F, {
        let teacher = teacher.as_ref().and_then(HostTensor::of);
        let mut result = Ok(());
        let d_logits = map_in_place::<F, 2>(logits, |logits| {
            let teacher = teacher.as_ref().map(|t| t.slice::<F>());
            result = loss_rows(
                entries, vocabulary, logits, teacher, labels, scale as F, values,
            );
        });
        result.map(|()| d_logits)
    })
}

/// As [`chunk_loss`], against stored targets from a position on.
fn sparse_loss(
    entries: &LossEntries,
    logits: Tensor<2>,
    (stored, first): (&SparseTargets, usize),
    targets: &[u32],
    scale: f64,
    values: &mut LossSums,
) -> Result<Tensor<2>, LossRowsError> {
    let labels = Labels {
        targets,
        supervised: &vec![true; targets.len()],
    };
    let _span = operation!("loss of rows", Cost::arrays([&logits; 2]));
    let values = match values {
        LossSums::Host(values) if is_host(&logits) => values,
        values => {
            let (gradient, sums) = sparse_chunk(entries, logits, stored, first, labels, scale)?;
            values.add(match values {
                LossSums::Device(_) => LossSums::Device(Box::new(sums)),
                LossSums::Host(_) => {
                    let sums: Vec<f32> = (sums.cast(DType::F32).into_data())
                        .try_to_vec()
                        .expect("the sums were cast to f32");
                    LossSums::Host(sums.into_iter().map(f64::from).collect())
                }
            });
            return Ok(gradient);
        }
    };
    for_real!(logits.dtype(), F, {
        let columns = logits.dims()[1];
        let mut result = Ok(());
        let d_logits = map_in_place::<F, 2>(logits, |logits| {
            let scale = scale as F;
            result = sparse_rows(
                entries,
                columns,
                logits,
                (stored, first),
                labels,
                scale,
                values,
            );
        });
        result.map(|()| d_logits)
    })
}

pub(super) fn index(positions: &[i32], like: &Tensor<2>) -> Tensor<1, Int> {
    let data = TensorData::new(positions.to_vec(), [positions.len()]);
    Tensor::from_data(data, (&like.device(), DType::I32))
}

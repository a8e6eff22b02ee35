//! The preference loss and its gradient from hidden states and the head, in chunks: no logits of a whole batch are held.
//!
//! The loss needs the log-probabilities of whole answers before it can tell how much each token weighs. Where the head is
//! frozen the gradients by the hidden states are taken without weights on the way and multiplied by them at the end; where it
//! is trained the logits are computed a second time.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use model::linear::Weight;
use model::ops::host::{HostTensor, is_host, map_in_place};
use model::score::chunk_rows;
use model::span::Cost;
use model::{for_real, operation, phase};
use rayon::prelude::*;

use super::linear_loss::{LinearLoss, chunk_loss, even_chunk, index};
use super::preference::{PAIR_VALUES, PairLogProbs, PreferenceLoss};
use super::{
    Labels, LossConfig, LossEntries, LossRowsError, LossSums, Vocabulary, label_log_probs,
};

/// The answers of a batch: two sides a pair, the chosen one first.
#[derive(Clone, Debug, PartialEq)]
pub struct Sides {
    /// The side that each supervised position belongs to, in the order of the positions.
    pub of_position: Vec<u32>,
    /// Supervised positions of each side.
    pub tokens: Vec<f64>,
    /// The log-probability of each side under the reference.
    pub reference: Vec<f64>,
}

/// The loss of the pairs and its gradient by `hidden` `[tokens, width]`, times `scale`; adds the head's gradient to `head`. The
/// values are sums over pairs, in the order of [`PairLogProbs::score`].
///
/// # Errors
/// A label beyond the head's rows.
pub fn pair_loss(
    loss: &PreferenceLoss,
    hidden: &Tensor<2>,
    head: &mut Weight,
    labels: Labels,
    sides: &Sides,
    scale: f64,
) -> Result<LinearLoss, LossRowsError> {
    let _phase = phase!("loss");
    let positions: Vec<i32> = (0..labels.supervised.len())
        .filter(|&i| labels.supervised[i])
        .map(|i| i as i32)
        .collect();
    let targets: Vec<u32> = (positions.iter())
        .map(|&i| labels.targets[i as usize])
        .collect();
    let trains_head = head.parameter().is_some_and(|p| p.trainable);
    let weight = head.cast(hidden.dtype());
    let rows = even_chunk(positions.len(), chunk_rows(weight.rows()));
    let chunks = || positions.chunks(rows).zip(targets.chunks(rows));
    let logits_of = |h: &Tensor<2>| {
        let _span = operation!("logits", Cost::weight_product(h, &weight));
        weight.forward(h)
    };
    let back = |d_logits: &Tensor<2>| {
        let _span = operation!("head backward", Cost::weight_product(d_logits, &weight));
        weight.backward(d_logits)
    };
    let mut d_hidden = hidden.zeros_like();
    let mut log_probs = LogProbs::of(hidden);
    for (chunk, targets) in chunks() {
        let at = index(chunk, hidden);
        let logits = logits_of(&hidden.clone().select(0, at.clone()));
        log_probs.add(&logits, targets);
        if !trains_head {
            let d_chunk = back(&unweighted(logits, targets)?);
            d_hidden = d_hidden.select_assign(0, at, d_chunk, IndexingUpdateOp::Add);
        }
    }
    // `unweighted` is that of −ln p.
    let (values, weights) = log_probs.weigh(loss, sides, -scale, hidden);
    let at = index(&positions, hidden);
    if !trains_head {
        let column = hidden.clone().narrow(1, 0, 1).zeros_like();
        let column = column.select_assign(0, at, weights, IndexingUpdateOp::Add);
        let d_hidden = d_hidden * column;
        return Ok(LinearLoss { values, d_hidden });
    }
    for (number, (chunk, targets)) in chunks().enumerate() {
        let at = index(chunk, hidden);
        let h = hidden.clone().select(0, at.clone());
        let weights = weights.clone().narrow(0, number * rows, chunk.len());
        let d_logits = scale_rows(unweighted(logits_of(&h), targets)?, weights);
        let d_chunk = back(&d_logits);
        head.accumulate_product(&d_logits, &h);
        d_hidden = d_hidden.select_assign(0, at, d_chunk, IndexingUpdateOp::Add);
    }
    Ok(LinearLoss { values, d_hidden })
}

/// The gradient of −Σ ln p(target) by the logits, in their place.
fn unweighted(logits: Tensor<2>, targets: &[u32]) -> Result<Tensor<2>, LossRowsError> {
    let columns = logits.dims()[1];
    let vocabulary = Vocabulary {
        student: columns,
        teacher: columns,
        valid: columns,
    };
    let entries = LossEntries::new(&[LossConfig::CrossEntropy(Default::default())])
        .expect("cross-entropy alone is a loss");
    let mut sums = LossSums::zeros(1, &logits);
    chunk_loss(&entries, vocabulary, logits, None, targets, 1.0, &mut sums)
}

/// Each row times its weight; `weights` is `[rows, 1]`.
fn scale_rows(logits: Tensor<2>, weights: Tensor<2>) -> Tensor<2> {
    let _span = operation!("weights of rows", Cost::arrays([&logits; 2]));
    if !is_host(&logits) {
        return logits * weights;
    }
    let columns = logits.dims()[1].max(1);
    for_real!(logits.dtype(), F, {
        let weights = HostTensor::held(&weights);
        let weights = weights.slice::<F>();
        map_in_place::<F, 2>(logits, |logits| {
            let rows = logits.par_chunks_mut(columns).zip(weights);
            rows.for_each(|(row, &weight)| row.iter_mut().for_each(|x| *x *= weight));
        })
    })
}

/// Log-probabilities of the targets, in the order of the positions.
enum LogProbs {
    Host(Vec<f64>),
    /// `[rows, 1]` a chunk.
    Device(Vec<Tensor<2>>),
}

impl LogProbs {
    fn of(hidden: &Tensor<2>) -> Self {
        match is_host(hidden) {
            true => Self::Host(Vec::new()),
            false => Self::Device(Vec::new()),
        }
    }

    fn add(&mut self, logits: &Tensor<2>, targets: &[u32]) {
        let _span = operation!("log-softmax", Cost::arrays([logits]));
        match self {
            Self::Host(values) => for_real!(logits.dtype(), F, {
                let columns = logits.dims()[1];
                let held = HostTensor::held(logits);
                values.extend(label_log_probs(
                    held.slice::<F>(),
                    columns,
                    columns,
                    targets,
                ));
            }),
            Self::Device(chunks) => {
                let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
                let ids = TensorData::new(ids, [targets.len(), 1]);
                let ids = Tensor::<2, Int>::from_data(ids, (&logits.device(), DType::I32));
                let log_probs = activation::log_softmax(logits.clone().cast(DType::F32), 1);
                chunks.push(log_probs.gather(1, ids));
            }
        }
    }

    /// The sums of the pairs' values, and `scale` times the weight of each position, `[positions, 1]`.
    fn weigh(
        self,
        loss: &PreferenceLoss,
        sides: &Sides,
        scale: f64,
        like: &Tensor<2>,
    ) -> (LossSums, Tensor<2>) {
        match self {
            Self::Host(log_probs) => {
                let mut of_sides = vec![0.0; sides.tokens.len()];
                for (&side, value) in sides.of_position.iter().zip(&log_probs) {
                    of_sides[side as usize] += value;
                }
                let mut sums = vec![0.0; PAIR_VALUES];
                let mut weights = Vec::with_capacity(of_sides.len());
                for first in (0..of_sides.len()).step_by(2) {
                    let both = |values: &[f64]| [values[first], values[first + 1]];
                    let pair = PairLogProbs {
                        log_probs: both(&of_sides),
                        reference: both(&sides.reference),
                        tokens: both(&sides.tokens),
                    };
                    let (values, slopes) = pair.score(loss);
                    sums.iter_mut().zip(values).for_each(|(s, v)| *s += v);
                    weights.extend(slopes);
                }
                let weights =
                    (sides.of_position.iter()).map(|&side| scale * weights[side as usize]);
                let data = TensorData::new(weights.collect::<Vec<f64>>(), [log_probs.len(), 1]);
                let weights = Tensor::from_data(data, (&like.device(), like.dtype()));
                (LossSums::Host(sums), weights)
            }
            Self::Device(chunks) => {
                let (sums, weights) = weigh_on_device(Tensor::cat(chunks, 0), loss, sides);
                let sums = match LossSums::zeros(PAIR_VALUES, like) {
                    LossSums::Device(_) => LossSums::Device(Box::new(sums)),
                    LossSums::Host(_) => LossSums::Host(LossSums::Device(Box::new(sums)).read()),
                };
                (sums, weights.mul_scalar(scale).cast(like.dtype()))
            }
        }
    }
}

/// As on the host, in f32 and without waiting. A side's sum is that of a product with ones and zeros: no matrix product, which
/// a device may round to fewer bits.
fn weigh_on_device(
    log_probs: Tensor<2>,
    loss: &PreferenceLoss,
    sides: &Sides,
) -> (Tensor<1>, Tensor<2>) {
    let device = log_probs.device();
    let (positions, count) = (sides.of_position.len(), sides.tokens.len());
    let upload = |values: Vec<f32>, shape: [usize; 2]| -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32))
    };
    let mut belongs = vec![0.0_f32; count * positions];
    for (position, &side) in sides.of_position.iter().enumerate() {
        belongs[side as usize * positions + position] = 1.0;
    }
    let belongs = upload(belongs, [count, positions]);
    let by_pair = |values: &[f64]| {
        let values = values.iter().map(|&value| value as f32).collect();
        upload(values, [count / 2, 2])
    };
    let of_sides = (belongs * log_probs.reshape([1, positions])).sum_dim(1);
    let of_pairs = of_sides.reshape([count / 2, 2]);
    let ratios = of_pairs.clone() - by_pair(&sides.reference);
    let share = match loss.by_mean() {
        true => by_pair(&sides.tokens).clamp_min(1.0).recip(),
        false => ratios.ones_like(),
    };
    let counted = ratios.clone() * share.clone();
    let side = |pairs: &Tensor<2>, side: usize| pairs.clone().narrow(1, side, 1);
    let (values, slopes) = loss.at_tensor(side(&counted, 0) - side(&counted, 1));
    let (chosen, rejected) = (side(&ratios, 0), side(&ratios, 1));
    let is_larger = chosen.clone().greater(rejected.clone()).float();
    let is_equal = chosen.equal(rejected).float();
    let accurate = is_larger.cast(DType::F32) + is_equal.cast(DType::F32).mul_scalar(0.5);
    let sums = [
        values,
        side(&ratios, 0),
        side(&ratios, 1),
        accurate,
        side(&of_pairs, 0),
        side(&of_pairs, 1),
    ];
    let sums = Tensor::cat(sums.map(Tensor::sum).to_vec(), 0);
    let weights = Tensor::cat(vec![slopes.clone(), slopes.neg()], 1) * share;
    let of_position: Vec<i32> = sides.of_position.iter().map(|&side| side as i32).collect();
    let data = TensorData::new(of_position, [positions]);
    let of_position = Tensor::<1, Int>::from_data(data, (&device, DType::I32));
    (sums, weights.reshape([count, 1]).select(0, of_position))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_device_weighs_as_the_host_does() {
        let sides = Sides {
            of_position: vec![0, 0, 0, 1, 1, 2, 3, 3, 3, 3],
            tokens: vec![3.0, 2.0, 1.0, 4.0],
            reference: vec![-3.5, -4.0, -0.5, -6.0],
        };
        let log_probs: Vec<f64> = (0..10).map(|i| -0.2 - 0.3 * f64::from(i)).collect();
        let like = Tensor::<2>::zeros([1, 1], (&Device::flex(), DType::F32));
        let all = serde_json::json!([
            { "sigmoid": { "beta": 0.3, "label_smoothing": 0.2 } },
            { "ipo": { "beta": 0.2 } },
            { "hinge": { "beta": 0.7 } },
        ]);
        let losses: Vec<PreferenceLoss> = serde_json::from_value(all).unwrap();
        let values = |tensor: Tensor<2>| -> Vec<f32> { tensor.into_data().try_to_vec().unwrap() };
        for loss in losses {
            let host = LogProbs::Host(log_probs.clone());
            let (expected, expected_weights) = host.weigh(&loss, &sides, -0.5, &like);
            let narrow = log_probs
                .iter()
                .map(|&value| value as f32)
                .collect::<Vec<_>>();
            let data = TensorData::new(narrow, [10, 1]);
            let on_device = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
            let chunks = vec![on_device.clone().narrow(0, 0, 7), on_device.narrow(0, 7, 3)];
            let (sums, weights) = LogProbs::Device(chunks).weigh(&loss, &sides, -0.5, &like);
            for (a, b) in sums.read().iter().zip(expected.read()) {
                assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{loss:?}");
            }
            for (a, b) in values(weights).iter().zip(values(expected_weights)) {
                assert!((a - b).abs() <= 1e-6, "{loss:?}");
            }
        }
    }
}

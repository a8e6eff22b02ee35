//! Direct preference optimisation (arXiv 2305.18290): the chosen answer of each pair is to become more probable against the
//! rejected one than it is under the reference model, whose log-probabilities are known before training begins.

use burn::tensor::{DType, Int, Tensor, TensorData};
use datasets::batch::Batch;
use datasets::loader::BatchLoader;
use model::decoder::Decoder;
use model::phase;
use model::score::label_log_probs;
use serde::Serialize;
use teacher::signal::token_batch;

use super::Trainee;
use crate::heldout::HeldoutPairs;
use crate::loss::pair_loss::{Sides, pair_loss};
use crate::loss::preference::{PAIR_VALUES, PairLogProbs, PreferenceLoss};
use crate::loss::{Labels, LossRowsError, LossSums};

/// The objective of a stage `dpo`. References are log-probabilities of whole answers by the sample's number in its corpus; none
/// at all where the loss is free of them.
pub struct Dpo {
    pub loss: PreferenceLoss,
    pub reference: Vec<f64>,
    /// Of held-out data.
    pub heldout_reference: Vec<f64>,
}

/// Means over pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairMetrics {
    pub pairs: usize,
    /// β times the log-ratio to the reference of the chosen answer; without a reference β times its log-probability.
    pub chosen_reward: f64,
    pub rejected_reward: f64,
    /// The chosen reward less the rejected one.
    pub margin: f64,
    /// The share of pairs whose chosen reward is the larger; equal ones count a half.
    pub accuracy: f64,
    /// ln π − ln π_ref a token, the mean over the tokens of all answers of both sides: an estimate of how far the model is from
    /// the reference, on answers that are not its own. It may be negative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// ln π of a whole answer.
    pub chosen_log_prob: f64,
    pub rejected_log_prob: f64,
}

impl Dpo {
    /// What the means of the values of `pairs` pairs say, whose answers have `tokens` tokens together.
    pub fn metrics(&self, values: &[f64], pairs: usize, tokens: usize) -> PairMetrics {
        let beta = self.loss.beta();
        let [chosen, rejected] = [values[1], values[2]];
        let kl = (chosen + rejected) * pairs as f64 / tokens.max(1) as f64;
        PairMetrics {
            pairs,
            chosen_reward: beta * chosen,
            rejected_reward: beta * rejected,
            margin: beta * (chosen - rejected),
            accuracy: values[3],
            kl: (!self.loss.reference_free()).then_some(kl),
            chosen_log_prob: values[4],
            rejected_log_prob: values[5],
        }
    }

    /// Adds the gradients of `scale` times the loss of all pairs of a microbatch to the trainee, and the pairs' values to `sums`.
    ///
    /// # Errors
    /// A label beyond the head's rows.
    pub fn accumulate(
        &self,
        trainee: &mut Trainee,
        batch: &Batch,
        checkpoint_blocks: bool,
        scale: f64,
        sums: &mut LossSums,
    ) -> Result<(), LossRowsError> {
        let forward = phase!("student forward");
        let decoder = &mut trainee.decoder;
        let (hidden, _, tape) =
            decoder.forward_with_tape(&token_batch(batch), checkpoint_blocks, &[]);
        drop(forward);
        let labels = Labels {
            targets: &batch.targets,
            supervised: &batch.supervised,
        };
        let sides = sides(batch, &self.reference);
        let head = decoder.head_mut();
        let loss = pair_loss(&self.loss, &hidden, head, labels, &sides, scale)?;
        sums.add(loss.values);
        let _phase = phase!("student backward");
        decoder.backward(tape, loss.d_hidden, &Default::default());
        Ok(())
    }

    /// One pass through held-out pairs.
    pub fn heldout(&self, decoder: &Decoder, loader: &BatchLoader) -> HeldoutPairs {
        let _phase = phase!("held-out loss");
        let (mut sums, mut pairs, mut tokens) = ([0.0; PAIR_VALUES], 0, 0);
        for number in 0..loader.batches_per_epoch() {
            let batch = loader.batch(number);
            let log_probs = answer_log_probs(decoder, &batch);
            let sides = sides(&batch, &self.heldout_reference);
            for first in (0..log_probs.len()).step_by(2) {
                let both = |values: &[f64]| [values[first], values[first + 1]];
                let pair = PairLogProbs {
                    log_probs: both(&log_probs),
                    reference: both(&sides.reference),
                    tokens: both(&sides.tokens),
                };
                let (values, _) = pair.score(&self.loss);
                (sums.iter_mut().zip(values)).for_each(|(sum, value)| *sum += value);
                pairs += 1;
            }
            tokens += batch.supervised_count();
        }
        let means = sums.map(|sum| sum / pairs.max(1) as f64);
        HeldoutPairs {
            loss: means[0],
            metrics: self.metrics(&means, pairs, tokens),
        }
    }
}

/// The answers of a batch of pairs.
fn sides(batch: &Batch, reference: &[f64]) -> Sides {
    let mut sides = Sides {
        of_position: Vec::new(),
        tokens: Vec::with_capacity(batch.pieces.len()),
        reference: Vec::with_capacity(batch.pieces.len()),
    };
    for (side, placed) in batch.pieces.iter().enumerate() {
        let learned = batch.supervised[placed.cells()].iter().filter(|s| **s);
        let tokens = learned.count();
        (sides.of_position).extend(std::iter::repeat_n(side as u32, tokens));
        sides.tokens.push(tokens as f64);
        let known = reference.get(placed.piece.sample as usize);
        sides.reference.push(known.copied().unwrap_or(0.0));
    }
    sides
}

/// The log-probability of each answer of a batch, in the order of its pieces.
pub fn answer_log_probs(decoder: &Decoder, batch: &Batch) -> Vec<f64> {
    let positions: Vec<usize> = (0..batch.supervised.len())
        .filter(|&i| batch.supervised[i])
        .collect();
    let sides = sides(batch, &[]);
    let mut sums = vec![0.0; sides.tokens.len()];
    if positions.is_empty() {
        return sums;
    }
    let hidden = decoder.hidden(&token_batch(batch));
    let index: Vec<i32> = positions.iter().map(|&i| i as i32).collect();
    let data = TensorData::new(index, [positions.len()]);
    let index = Tensor::<1, Int>::from_data(data, (&hidden.device(), DType::I32));
    let targets: Vec<u32> = positions.iter().map(|&i| batch.targets[i]).collect();
    let log_probs = label_log_probs(decoder, &hidden.select(0, index), &targets);
    for (&side, log_prob) in sides.of_position.iter().zip(log_probs) {
        sums[side as usize] += log_prob;
    }
    sums
}

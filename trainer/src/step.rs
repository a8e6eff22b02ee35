//! One optimizer step: gradients of all microbatches, clipping, update.

use burn::tensor::Tensor;
use datasets::batch::Batch;
use model::linear::fake_quant::FakeQuantError;
use model::linear::lora::DropoutDraw;
use model::phase;
use teacher::error::TeacherError;
use teacher::signal::token_batch;
use thiserror::Error;

use crate::loss::linear_loss::{AlignedStates, TeacherSignal, TeacherStates, linear_loss};
use crate::loss::{Labels, LossRowsError, LossSums};
use crate::objective::dpo::PairMetrics;
use crate::objective::{Guide, Objective, TokenObjective, Trainee};
use crate::optim::adamw::{AdamW, GradientScale};
use crate::optim::clip::{clip_factor, global_norm, square_sums};
#[cfg(feature = "cube")]
use crate::optim::cube::verdict::judge;
use crate::optim::verdict::Verdict;

/// How a step is cut and bounded.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    /// Rows of one microbatch.
    pub micro_rows: usize,
    pub checkpoint_blocks: bool,
    pub clip_norm: f64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Mean over supervised tokens of each listed loss, times T² where that belongs; or means over pairs.
    pub values: Vec<f64>,
    /// Σ weight · value: what was minimised.
    pub loss: f64,
    /// What the values say of pairs.
    pub pairs: Option<PairMetrics>,
    pub supervised_tokens: usize,
    /// All tokens but padding.
    pub tokens: usize,
    /// Before clipping.
    pub gradient_norm: f64,
    pub learning_rate: f64,
}

#[derive(Debug, Error)]
pub enum StepError {
    #[error("nothing is supervised in this batch of {tokens} tokens")]
    NothingSupervised { tokens: usize },
    #[error("{what} is not finite")]
    NotFinite { what: String },
    #[error("the weights cannot be rounded: {0}")]
    Rounding(#[from] FakeQuantError),
    #[error(transparent)]
    Loss(#[from] LossRowsError),
    #[error(transparent)]
    Teacher(#[from] TeacherError),
}

/// A step that is done, or that a device is still at: its numbers are read later.
#[derive(Debug)]
pub enum Step {
    Done(StepReport),
    OnDevice {
        verdict: Verdict,
        /// What the sums are divided by.
        units: usize,
        supervised_tokens: usize,
        tokens: usize,
        learning_rate: f64,
    },
}

impl Step {
    /// Whether its numbers are at hand without waiting.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// The reports of steps in their order, `None` from the first on that was not finite; waits for the device once.
    pub fn reports(steps: &[&Self], objective: &Objective) -> Vec<Option<StepReport>> {
        let verdicts: Vec<&Verdict> = (steps.iter())
            .filter_map(|step| match step {
                Self::Done(_) => None,
                Self::OnDevice { verdict, .. } => Some(verdict),
            })
            .collect();
        let mut read = Verdict::read_all(&verdicts).into_iter();
        let report = |step: &&Self| match step {
            Self::Done(report) => Some(report.clone()),
            Self::OnDevice {
                units,
                supervised_tokens,
                tokens,
                learning_rate,
                ..
            } => {
                let verdict = read.next().filter(|verdict| !verdict.halted)?;
                let values = means(&verdict.loss_sums, *units);
                Some(StepReport {
                    loss: objective.total(&values),
                    pairs: objective.pair_metrics(&values, *units, *supervised_tokens),
                    values,
                    supervised_tokens: *supervised_tokens,
                    tokens: *tokens,
                    gradient_norm: verdict.gradient_norm,
                    learning_rate: *learning_rate,
                })
            }
        };
        steps.iter().map(report).collect()
    }
}

fn means(sums: &[f64], count: usize) -> Vec<f64> {
    sums.iter().map(|sum| sum / count as f64).collect()
}

/// Updates the trainee once and waits for what came of it.
///
/// # Errors
/// When the loss or a gradient is not finite; the weights are then those before the step. When fake quantisation
/// cannot hold the new weights.
pub fn train_step(
    trainee: &mut Trainee,
    optimizer: &mut AdamW,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
    learning_rate: f64,
) -> Result<StepReport, StepError> {
    let step = start_step(trainee, optimizer, objective, batch, config, learning_rate)?;
    match Step::reports(&[&step], objective).pop().flatten() {
        Some(report) => Ok(report),
        None => {
            optimizer.verdict = None;
            Err(why_not_finite(trainee, objective, batch, config))
        }
    }
}

/// As [`train_step`], but a device is not waited for: there a step that is not finite shows in its report, and neither it
/// nor a later one changes the weights.
///
/// # Errors
/// On the CPU as [`train_step`].
pub fn start_step(
    trainee: &mut Trainee,
    optimizer: &mut AdamW,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
    learning_rate: f64,
) -> Result<Step, StepError> {
    let sums = accumulate_gradients(trainee, objective, batch, config)?;
    let units = objective.units(batch);
    let supervised_tokens = batch.supervised_count();
    let tokens = batch.token_count();
    #[cfg(feature = "cube")]
    if let LossSums::Device(sums) = &sums {
        let gradients: Vec<&Tensor<2>> = trainee
            .parameters()
            .filter_map(|parameter| parameter.gradient.as_ref())
            .collect();
        let weights = objective.weights().into_iter();
        let weights: Vec<f32> = weights.map(|weight| weight as f32).collect();
        let before = optimizer.verdict.as_ref();
        let verdict = judge(&gradients, sums, &weights, config.clip_norm, before);
        drop(gradients);
        let scale = GradientScale::OnDevice(&verdict);
        optimizer.step(trainee.parameters_mut(), learning_rate, scale);
        optimizer.verdict = Some(verdict.clone());
        round_weights(trainee)?;
        return Ok(Step::OnDevice {
            verdict,
            units,
            supervised_tokens,
            tokens,
            learning_rate,
        });
    }
    let values = means(&sums.read(), units);
    let loss = objective.total(&values);
    let gradient_norm = global_norm(trainee.parameters());
    if !loss.is_finite() || !gradient_norm.is_finite() {
        let what = name_what_is_not_finite(trainee, loss);
        trainee.parameters_mut().for_each(|p| p.gradient = None);
        return Err(StepError::NotFinite { what });
    }
    let scale = GradientScale::Known(clip_factor(gradient_norm, config.clip_norm));
    optimizer.step(trainee.parameters_mut(), learning_rate, scale);
    round_weights(trainee)?;
    Ok(Step::Done(StepReport {
        pairs: objective.pair_metrics(&values, units, supervised_tokens),
        values,
        loss,
        supervised_tokens,
        tokens,
        gradient_norm,
        learning_rate,
    }))
}

/// Rounds what fake quantisation computes with to the new weights.
fn round_weights(trainee: &mut Trainee) -> Result<(), StepError> {
    let _phase = phase!("round the weights");
    Ok(trainee.decoder.refresh_fake_quantization()?)
}

/// What went wrong in a step whose report is missing. Its gradients are gone, so they are computed again: the weights are
/// still those from before it.
pub fn why_not_finite(
    trainee: &mut Trainee,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
) -> StepError {
    let sums = match accumulate_gradients(trainee, objective, batch, config) {
        Ok(sums) => sums.read(),
        Err(error) => return error,
    };
    let loss = objective.total(&means(&sums, objective.units(batch)));
    let what = name_what_is_not_finite(trainee, loss);
    trainee.parameters_mut().for_each(|p| p.gradient = None);
    StepError::NotFinite { what }
}

/// Adds the gradients of the mean loss over the batch's supervised tokens, or its pairs, to the trainee's parameters,
/// a microbatch at a time; returns each loss's sum. The division by the count of the *whole* batch
/// happens here, so that any cut into microbatches gives the same gradients.
///
/// # Errors
/// When nothing is supervised, or student and teacher do not fit.
pub fn accumulate_gradients(
    trainee: &mut Trainee,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
) -> Result<LossSums, StepError> {
    if batch.supervised_count() == 0 {
        let tokens = batch.token_count();
        return Err(StepError::NothingSupervised { tokens });
    }
    let scale = 1.0 / objective.units(batch) as f64;
    let values = objective.weights().len();
    let mut sums = LossSums::zeros(values, &trainee.decoder.norm.value);
    let rows = config.micro_rows.max(1);
    for start in (0..batch.rows).step_by(rows) {
        let micro = batch.rows_in(start..start + rows);
        if micro.supervised_count() > 0 {
            trainee.decoder.draw_dropout(Some(DropoutDraw {
                first_token: (start * batch.length) as u64,
                ..trainee.dropout
            }));
            let done = match objective {
                Objective::Tokens(tokens) => {
                    accumulate_microbatch(trainee, tokens, &micro, config, scale, &mut sums)
                }
                Objective::Dpo(dpo) => {
                    let blocks = config.checkpoint_blocks;
                    let done = dpo.accumulate(trainee, &micro, blocks, scale, &mut sums);
                    done.map_err(StepError::from)
                }
            };
            trainee.decoder.draw_dropout(None);
            done?;
        }
    }
    Ok(sums)
}

fn accumulate_microbatch(
    trainee: &mut Trainee,
    objective: &TokenObjective,
    batch: &Batch,
    config: StepConfig,
    scale: f64,
    sums: &mut LossSums,
) -> Result<(), StepError> {
    let tokens = token_batch(batch);
    let (student_layers, teacher_layers) = objective.layers();
    let asking = phase!("teacher");
    let (mut signal, mut stored, mut aligned) = (None, None, None);
    match objective.teacher {
        Some(Guide::Model(teacher)) => signal = Some(teacher.signal(&tokens, &teacher_layers)?),
        Some(Guide::Across(teacher)) => aligned = teacher.signal(batch)?,
        Some(Guide::Stored(targets, pieces)) => {
            let targets = targets.of_batch(batch, pieces);
            stored = Some(targets.map_err(TeacherError::from)?);
        }
        None => {}
    }
    drop(asking);
    let teacher_states = signal.as_ref().map(|signal| TeacherStates {
        hidden: signal.hidden.clone(),
        head: signal.head.clone(),
    });
    let aligned = aligned.map(|found| AlignedStates {
        states: TeacherStates {
            hidden: found.signal.hidden,
            head: found.signal.head,
        },
        partners: found.partners,
        valid: found.valid,
    });
    let forward = phase!("student forward");
    let decoder = &mut trainee.decoder;
    let (hidden, layers, tape) =
        decoder.forward_with_tape(&tokens, config.checkpoint_blocks, &student_layers);
    drop(forward);
    let labels = Labels {
        targets: &batch.targets,
        supervised: &batch.supervised,
    };
    let loss = linear_loss(
        &objective.entries,
        &hidden,
        decoder.head_mut(),
        match (&stored, &aligned) {
            (Some(targets), _) => Some(TeacherSignal::Targets(targets)),
            (_, Some(aligned)) => Some(TeacherSignal::Aligned(aligned)),
            _ => teacher_states.as_ref().map(TeacherSignal::States),
        },
        labels,
        objective.valid,
        scale,
    )?;
    sums.add(loss.values);
    drop((teacher_states, aligned));
    let d_layers = match &signal {
        Some(signal) => objective.hidden_losses(
            &mut trainee.projections,
            &layers,
            signal,
            &batch.supervised,
            scale,
            sums,
        ),
        None => Default::default(),
    };
    drop(signal);
    let _phase = phase!("student backward");
    trainee.decoder.backward(tape, loss.d_hidden, &d_layers);
    Ok(())
}

/// A weight that is not finite is no result, though only the next step would notice it.
///
/// # Errors
/// [`StepError::NotFinite`], which names the first such weight.
pub fn check_weights(trainee: &Trainee) -> Result<(), StepError> {
    let _phase = phase!("check of the weights");
    let trained = || trainee.parameters().filter(|parameter| parameter.trainable);
    let values: Vec<&Tensor<2>> = trained().map(|p| &p.value).collect();
    let sums = square_sums(&values);
    match trained().zip(sums).find(|(_, sum)| !sum.is_finite()) {
        Some((parameter, _)) => {
            let what = format!("the weight {}", parameter.name);
            Err(StepError::NotFinite { what })
        }
        None => Ok(()),
    }
}

/// The first tensor in checkpoint order that holds a NaN or an infinity, weights before gradients.
fn name_what_is_not_finite(trainee: &Trainee, loss: f64) -> String {
    if let Err(StepError::NotFinite { what }) = check_weights(trainee) {
        return what;
    }
    let with_gradient = || trainee.parameters().filter(|p| p.gradient.is_some());
    let gradients: Vec<&Tensor<2>> = with_gradient()
        .filter_map(|p| p.gradient.as_ref())
        .collect();
    let sums = square_sums(&gradients);
    match with_gradient().zip(sums).find(|(_, sum)| !sum.is_finite()) {
        Some((parameter, _)) => format!("the gradient of {} (loss {loss})", parameter.name),
        None => format!("the loss, {loss},"),
    }
}

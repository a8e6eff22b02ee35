//! One optimizer step: gradients of all microbatches, clipping, update.

use datasets::batch::Batch;
use model::batch::TokenBatch;
use model::linear::lora::DropoutDraw;
use model::parameter::Parameter;
use teacher::error::TeacherError;
use thiserror::Error;

use crate::loss::linear_loss::{TeacherStates, linear_loss};
use crate::loss::{Labels, LossRowsError};
use crate::objective::{Objective, Trainee};
use crate::optim::adamw::AdamW;
use crate::optim::clip::{clip_factor, global_norm, square_sum};

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
    /// Mean over supervised tokens of each listed loss, times T² where that belongs.
    pub values: Vec<f64>,
    /// Σ weight · value: what was minimised.
    pub loss: f64,
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
    #[error(transparent)]
    Loss(#[from] LossRowsError),
    #[error(transparent)]
    Teacher(#[from] TeacherError),
}

/// The decoder's view of a batch.
pub fn token_batch(batch: &Batch) -> TokenBatch {
    TokenBatch {
        rows: batch.rows,
        length: batch.length,
        ids: batch.ids.clone(),
        positions: batch.positions.clone(),
        segments: batch.segments.clone(),
    }
}

/// Updates the trainee once.
///
/// # Errors
/// When the loss or a gradient is not finite; the weights are then those before the step.
pub fn train_step(
    trainee: &mut Trainee,
    optimizer: &mut AdamW,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
    learning_rate: f64,
) -> Result<StepReport, StepError> {
    let sums = accumulate_gradients(trainee, objective, batch, config)?;
    let supervised_tokens = batch.supervised_count();
    let values: Vec<f64> = sums
        .iter()
        .map(|sum| sum / supervised_tokens as f64)
        .collect();
    let loss = objective.entries.total(&values);
    let gradient_norm = global_norm(trainee.parameters());
    if !loss.is_finite() || !gradient_norm.is_finite() {
        let what = name_what_is_not_finite(trainee, loss);
        trainee.parameters_mut().for_each(|p| p.gradient = None);
        return Err(StepError::NotFinite { what });
    }
    let scale = clip_factor(gradient_norm, config.clip_norm);
    optimizer.step(trainee.parameters_mut(), learning_rate, scale);
    Ok(StepReport {
        values,
        loss,
        supervised_tokens,
        tokens: batch.token_count(),
        gradient_norm,
        learning_rate,
    })
}

/// Adds the gradients of the mean loss over the batch's supervised tokens to the trainee's parameters,
/// a microbatch at a time; returns each loss's sum. The division by the token count of the *whole* batch
/// happens here, so that any cut into microbatches gives the same gradients.
///
/// # Errors
/// When nothing is supervised, or student and teacher do not fit.
pub fn accumulate_gradients(
    trainee: &mut Trainee,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
) -> Result<Vec<f64>, StepError> {
    let supervised = batch.supervised_count();
    if supervised == 0 {
        let tokens = batch.token_count();
        return Err(StepError::NothingSupervised { tokens });
    }
    let scale = 1.0 / supervised as f64;
    let mut values = vec![0.0; objective.entries.count()];
    let rows = config.micro_rows.max(1);
    for start in (0..batch.rows).step_by(rows) {
        let micro = batch.rows_in(start..start + rows);
        if micro.supervised_count() > 0 {
            trainee.decoder.draw_dropout(Some(DropoutDraw {
                first_token: (start * batch.length) as u64,
                ..trainee.dropout
            }));
            let done =
                accumulate_microbatch(trainee, objective, &micro, config, scale, &mut values);
            trainee.decoder.draw_dropout(None);
            done?;
        }
    }
    Ok(values)
}

fn accumulate_microbatch(
    trainee: &mut Trainee,
    objective: &Objective,
    batch: &Batch,
    config: StepConfig,
    scale: f64,
    values: &mut [f64],
) -> Result<(), StepError> {
    let tokens = token_batch(batch);
    let (student_layers, teacher_layers) = objective.layers();
    let signal = match objective.teacher {
        Some(teacher) => Some(teacher.signal(&tokens, &teacher_layers)?),
        None => None,
    };
    let teacher_states = signal.as_ref().map(|signal| TeacherStates {
        hidden: signal.hidden.clone(),
        head: signal.head.clone(),
    });
    let decoder = &mut trainee.decoder;
    let (hidden, layers, tape) =
        decoder.forward_with_tape(&tokens, config.checkpoint_blocks, &student_layers);
    let labels = Labels {
        targets: &batch.targets,
        supervised: &batch.supervised,
    };
    let loss = linear_loss(
        &objective.entries,
        &hidden,
        decoder.head_mut(),
        teacher_states.as_ref(),
        labels,
        objective.valid,
        scale,
    )?;
    for (sum, value) in values.iter_mut().zip(&loss.values) {
        *sum += value;
    }
    drop(teacher_states);
    let d_layers = match &signal {
        Some(signal) => objective.hidden_losses(
            &mut trainee.projections,
            &layers,
            signal,
            &batch.supervised,
            scale,
            values,
        ),
        None => Default::default(),
    };
    drop(signal);
    trainee.decoder.backward(tape, loss.d_hidden, &d_layers);
    Ok(())
}

/// A weight that is not finite is no result, though only the next step would notice it.
///
/// # Errors
/// [`StepError::NotFinite`], which names the first such weight.
pub fn check_weights(trainee: &Trainee) -> Result<(), StepError> {
    let ruined =
        |parameter: &&Parameter| parameter.trainable && !square_sum(&parameter.value).is_finite();
    match trainee.parameters().find(ruined) {
        Some(parameter) => {
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
    for parameter in trainee.parameters() {
        if let Some(gradient) = &parameter.gradient
            && !square_sum(gradient).is_finite()
        {
            return format!("the gradient of {} (loss {loss})", parameter.name);
        }
    }
    format!("the loss, {loss},")
}

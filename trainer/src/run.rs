//! A training stage from its first step, or its last checkpoint, to its last step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use datasets::loader::BatchLoader;
use model::{phase, step};
use serde::Serialize;
use teacher::error::TeacherError;
use teacher::remote::error::RemoteError;
use thiserror::Error;

use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::config::TrainConfig;
use crate::heldout::{Heldout, heldout_loss};
use crate::metrics::{Metrics, Record};
use crate::objective::{Objective, Trainee};
use crate::on_policy::samples::{OnPolicyRecord, WrittenSample};
use crate::on_policy::student::{Composed, OnPolicyStage, WritingStudent};
use crate::optim::adamw::AdamW;
use crate::optim::config::Optimizer;
use crate::step::{
    Step, StepConfig, StepError, StepReport, check_weights, start_step, why_not_finite,
};

/// Most steps whose numbers are left on a device before they are read.
const UNREAD_STEPS: usize = 16;

/// Files in the directory of a stage.
const METRICS: &str = "metrics.jsonl";
const SAMPLES: &str = "samples.jsonl";

/// Batches prepared ahead of the step that needs them.
const PREFETCHED_BATCHES: usize = 4;

/// What a stage trains on and where it writes.
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    pub objective: Objective<'a>,
    pub data: Arc<BatchLoader>,
    pub heldout: Option<BatchLoader>,
    /// Where the student writes a part of what it learns from.
    pub on_policy: Option<OnPolicyStage<'a>>,
    /// The stage's directory: checkpoints, `metrics.jsonl` with TensorBoard's events, and `samples.jsonl` go here.
    pub directory: PathBuf,
    pub stage_digest: String,
    /// Set from outside to stop after the step under way.
    pub stop: &'a AtomicBool,
}

/// Told what happens, for whoever shows it.
pub trait Observer {
    /// Training starts after `done` of `total` steps.
    fn started(&mut self, done: u64, total: u64);
    /// Step `step`, counted from 1, took `seconds`; on a device it is told some steps later.
    fn stepped(&mut self, step: u64, report: &StepReport, seconds: f64);
    fn evaluated(&mut self, step: u64, measured: Heldout);
    /// What the student wrote in a step.
    fn wrote(&mut self, record: &OnPolicyRecord, samples: &[WrittenSample]);
    fn saved(&mut self, step: u64);
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished {
        steps: u64,
    },
    /// Stopped from outside; the checkpoint of this step lets the same command go on.
    Stopped {
        step: u64,
    },
}

#[derive(Debug, Error)]
pub enum RunError {
    #[error("step {step}: {source}\nhint: {}lower the learning rate, or look at the data of this step", kept(*.last_good))]
    Diverged {
        step: u64,
        /// The step of the last checkpoint, if there is one.
        last_good: Option<u64>,
        source: Box<StepError>,
    },
    #[error("step {step}: {source}")]
    Step { step: u64, source: Box<StepError> },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("cannot write {path}: {source}", path = path.display())]
    Metrics { path: PathBuf, source: io::Error },
}

fn kept(last_good: Option<u64>) -> String {
    last_good.map_or_else(String::new, |step| {
        format!("the checkpoint of step {step} is kept; ")
    })
}

/// Runs `work` on one of rayon's threads where the CPU computes: thousands of short parallel loops then begin without
/// waking another thread. Other devices keep a queue for each thread, so there it stays on this one.
fn on_workers<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    match *device == Device::flex() {
        true => rayon::scope(|_| work()),
        false => work(),
    }
}

impl Run<'_> {
    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        match self.config.steps {
            Some(steps) => steps,
            None => self.config.total_steps(self.data.batches_per_epoch()),
        }
    }

    /// Trains to the end, or until it is told to stop.
    ///
    /// # Errors
    /// A step that is not finite (the last checkpoint is kept), a checkpoint of another stage, a full disk.
    pub fn train(
        &self,
        trainee: &mut Trainee,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, RunError> {
        let Optimizer::Adamw(adamw) = &self.config.optimizer;
        let mut optimizer = AdamW::new(adamw.clone());
        let checkpoints = self.checkpoints();
        let state = checkpoints.resume(trainee, &mut optimizer)?;
        optimizer.hold_moments(trainee.parameters());
        let mut last_good = state.as_ref().map(|state| state.step);
        let start = last_good.unwrap_or(0);
        let mut heldout_nll = state.and_then(|state| state.heldout_nll);
        let total = self.total_steps();
        let mut metrics = self.open(METRICS, start, Metrics::resume_with_events)?;
        let mut student = match &self.on_policy {
            Some(stage) => {
                let state = last_good
                    .map(|step| checkpoints.on_policy(step))
                    .transpose()?;
                let student = WritingStudent::new(stage, self.data.config(), total, state);
                Some((student, self.open(SAMPLES, start, Metrics::resume)?))
            }
            None => None,
        };
        observer.started(start, total);
        self.round_from(start, last_good, trainee)?;
        if start == 0 {
            heldout_nll = self
                .evaluate(trainee, 0, &mut metrics, observer)?
                .or(heldout_nll);
            if let (Some((student, _)), Some(nll)) = (&mut student, heldout_nll) {
                student.evaluated(nll);
            }
        }
        let mut batches = self.data.prefetch(start, PREFETCHED_BATCHES);
        let mut unread = Unread::default();
        for step in start..total {
            if self.stop.load(Ordering::Relaxed) {
                self.read(&mut unread, trainee, last_good, &mut metrics, observer)?;
                let state = student.as_ref().map(|(student, _)| student.state());
                check_weights(trainee).map_err(|source| step_error(step, last_good, source))?;
                // Nothing is new before the first step of this process.
                if step > start {
                    checkpoints.save(trainee, &optimizer, step, heldout_nll, state)?;
                }
                return Ok(Outcome::Stopped { step });
            }
            unread.clock.get_or_insert_with(Instant::now);
            self.round_from(step, last_good, trainee)?;
            let learning_rate = adamw.lr * self.config.schedule.factor(step, total);
            trainee.dropout.step = step;
            let started = on_workers(&trainee.decoder.device(), || {
                let _step = step!("step");
                let batch = {
                    let _phase = phase!("wait for data");
                    batches.next().unwrap_or_else(|| self.data.batch(step))
                };
                let writer = student.as_mut().map(|(student, _)| student);
                unread.composed =
                    writer.map(|student| student.compose(step, &trainee.decoder, &batch));
                let composed = unread.composed.as_ref();
                let batch = composed.map_or(&batch, |composed| &composed.batch);
                start_step(
                    trainee,
                    &mut optimizer,
                    &self.objective,
                    batch,
                    self.step_config(),
                    learning_rate,
                )
            });
            if let (Some((_, lines)), Some(composed)) = (&mut student, &unread.composed) {
                for sample in &composed.samples {
                    self.write(SAMPLES, lines, sample)?;
                }
            }
            let done = step + 1;
            let every = |n: Option<u64>| n.is_some_and(|n| done % n == 0);
            let evaluates = every(self.config.evaluate_every) || done == total;
            let saves = every(Some(self.config.checkpoint_every)) || done == total;
            let (waits, failure) = match started {
                Ok(step) => (unread.push(done, step), None),
                // In the middle of a step: what the teacher has said of it is kept, and asked for again by none.
                Err(StepError::Teacher(TeacherError::Remote(RemoteError::Stopped))) => {
                    self.read(&mut unread, trainee, last_good, &mut metrics, observer)?;
                    let step = last_good.unwrap_or(0);
                    return Ok(Outcome::Stopped { step });
                }
                Err(error) => (false, Some(step_error(done, last_good, error))),
            };
            if !waits || evaluates || saves || student.is_some() {
                self.read(&mut unread, trainee, last_good, &mut metrics, observer)?;
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            if evaluates {
                let measured = self.evaluate(trainee, done, &mut metrics, observer)?;
                heldout_nll = measured.or(heldout_nll);
                if let (Some((student, _)), Some(nll)) = (&mut student, measured) {
                    student.evaluated(nll);
                }
            }
            if saves {
                check_weights(trainee).map_err(|source| step_error(done, last_good, source))?;
                let state = student.as_ref().map(|(student, _)| student.state());
                checkpoints.save(trainee, &optimizer, done, heldout_nll, state)?;
                last_good = Some(done);
                observer.saved(done);
            }
        }
        Ok(Outcome::Finished { steps: total })
    }

    /// Starts fake quantisation if it is time before `step`. Checkpoints hold the weights as they are trained, so that
    /// it starts the same again.
    fn round_from(
        &self,
        step: u64,
        last_good: Option<u64>,
        trainee: &mut Trainee,
    ) -> Result<(), RunError> {
        match &self.config.quantization_aware {
            Some(aware) if step >= aware.first_step(self.total_steps()) => {
                let started = trainee.decoder.fake_quantize(aware.target());
                started.map_err(|error| step_error(step, last_good, error.into()))
            }
            _ => Ok(()),
        }
    }

    /// Writes and tells what the unread steps did.
    fn read(
        &self,
        unread: &mut Unread,
        trainee: &mut Trainee,
        last_good: Option<u64>,
        metrics: &mut Metrics,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let Unread {
            steps,
            clock,
            composed,
        } = std::mem::take(unread);
        let all: Vec<&Step> = steps.iter().map(|(_, step)| step).collect();
        let reports = Step::reports(&all, &self.objective);
        let seconds = clock.map_or(0.0, |clock| clock.elapsed().as_secs_f64());
        let seconds = seconds / steps.len().max(1) as f64;
        for ((done, _), report) in steps.iter().zip(reports) {
            let Some(report) = report else {
                let batch = match composed {
                    Some(composed) => composed.batch,
                    None => self.data.batch(done - 1),
                };
                let config = self.step_config();
                trainee.dropout.step = done - 1;
                let source = why_not_finite(trainee, &self.objective, &batch, config);
                return Err(step_error(*done, last_good, source));
            };
            let written = composed.as_ref().zip(self.on_policy.as_ref());
            let written = written.map(|(composed, stage)| {
                let record = stage.timed(&composed.record, seconds);
                observer.wrote(&record, &composed.samples);
                record
            });
            let record = self.record(*done, &report, seconds, written);
            self.write(METRICS, metrics, &record)?;
            observer.stepped(*done, &report, seconds);
        }
        Ok(())
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(
            &self.directory,
            self.stage_digest.clone(),
            self.config.keep_checkpoints,
        )
    }

    fn step_config(&self) -> StepConfig {
        let rows = self.config.rows_per_step();
        StepConfig {
            micro_rows: self.config.micro_batch.unwrap_or(rows.min(4)),
            checkpoint_blocks: self.config.checkpoint_blocks,
            clip_norm: self.config.clip_norm,
        }
    }

    fn evaluate(
        &self,
        trainee: &Trainee,
        step: u64,
        metrics: &mut Metrics,
        observer: &mut dyn Observer,
    ) -> Result<Option<f64>, RunError> {
        let Some(heldout) = &self.heldout else {
            return Ok(None);
        };
        let measured = match &self.objective {
            Objective::Tokens(_) => Heldout::Tokens(heldout_loss(&trainee.decoder, heldout)),
            Objective::Dpo(dpo) => Heldout::Pairs(dpo.heldout(&trainee.decoder, heldout)),
        };
        let record = Record::of_heldout(step, &measured);
        self.write(METRICS, metrics, &record)?;
        observer.evaluated(step, measured);
        Ok(Some(measured.mean()))
    }

    fn record(
        &self,
        step: u64,
        report: &StepReport,
        seconds: f64,
        on_policy: Option<OnPolicyRecord>,
    ) -> Record {
        let names = self.objective.names().into_iter().enumerate();
        Record::Step {
            step,
            loss: report.loss,
            losses: names
                .zip(&report.values)
                .map(|((i, name), value)| (format!("{name}.{i}"), (*value).into()))
                .collect(),
            learning_rate: report.learning_rate,
            gradient_norm: report.gradient_norm,
            tokens: report.tokens,
            supervised_tokens: report.supervised_tokens,
            seconds,
            pairs: report.pairs,
            on_policy: on_policy.map(Box::new),
        }
    }

    /// A file of the stage that lines are added to, without those of steps after `step`.
    fn open(
        &self,
        file: &str,
        step: u64,
        resume: fn(&Path, u64) -> io::Result<Metrics>,
    ) -> Result<Metrics, RunError> {
        let path = self.directory.join(file);
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| resume(&path, step))
            .map_err(|source| RunError::Metrics { path, source })
    }

    fn write(
        &self,
        file: &str,
        lines: &mut Metrics,
        record: &impl Serialize,
    ) -> Result<(), RunError> {
        let path = self.directory.join(file);
        lines
            .write(record)
            .map_err(|source| RunError::Metrics { path, source })
    }
}

/// Steps whose numbers have not been read, and since when they run. A step on the CPU is read at once.
#[derive(Default)]
struct Unread {
    steps: Vec<(u64, Step)>,
    clock: Option<Instant>,
    /// The batch of the only one, where the student has written a part of it.
    composed: Option<Composed>,
}

impl Unread {
    /// Whether the step can wait to be read.
    fn push(&mut self, done: u64, step: Step) -> bool {
        let waits = !step.is_done();
        self.steps.push((done, step));
        waits && self.steps.len() < UNREAD_STEPS
    }
}

fn step_error(step: u64, last_good: Option<u64>, source: StepError) -> RunError {
    let source = Box::new(source);
    match *source {
        StepError::NotFinite { .. } | StepError::Rounding(_) => RunError::Diverged {
            step,
            last_good,
            source,
        },
        _ => RunError::Step { step, source },
    }
}

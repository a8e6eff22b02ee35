//! Batches of which the student has written a part.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use datasets::batch::Batch;
use datasets::loader::LoaderConfig;
use datasets::packing::Packing;
use datasets::random::Random;
use datasets::sequence::Sequence;
use datasets::tokenizer::Tokenizer;
use model::decoder::Decoder;
use model::generate::engine::{GenerationConfig, ROWS_AT_A_TIME, generate};
use model::phase;
use serde::{Deserialize, Serialize};

use super::adaptive_share::AdaptiveShare;
use super::config::OnPolicy;
use super::prompts::Prompts;
use super::replay::{ReplayBuffer, Written};
use super::samples::{Finish, OnPolicyRecord, WrittenSample};

/// What a stage gives a student that writes.
pub struct OnPolicyStage<'a> {
    pub config: &'a OnPolicy,
    pub tokenizer: &'a Tokenizer,
    /// Any of these ends a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Ids below are tokens of both models; no other is drawn.
    pub vocabulary: usize,
    /// In place of those of the data; none is empty or fills a row.
    pub prompts: Option<Vec<Vec<u32>>>,
    /// How long the teacher has taken since this was asked last.
    pub scoring: &'a (dyn Fn() -> Duration + Sync),
}

impl OnPolicyStage<'_> {
    /// With the times of the step, which took `seconds` in all.
    pub fn timed(&self, record: &OnPolicyRecord, seconds: f64) -> OnPolicyRecord {
        let score_seconds = (self.scoring)().as_secs_f64();
        OnPolicyRecord {
            score_seconds,
            train_seconds: (seconds - record.generate_seconds - score_seconds).max(0.0),
            ..record.clone()
        }
    }
}

/// What a checkpoint keeps of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnPolicyState {
    share: AdaptiveShare,
    /// Prompts of `prompts` that have been used.
    prompts_taken: u64,
    replay: ReplayBuffer,
}

/// The student as a writer, from step to step.
pub struct WritingStudent<'a> {
    stage: &'a OnPolicyStage<'a>,
    data: &'a LoaderConfig,
    total_steps: u64,
    prompts: Option<Prompts>,
    state: OnPolicyState,
}

/// A batch, and what the student did for it.
pub struct Composed {
    pub batch: Batch,
    pub samples: Vec<WrittenSample>,
    pub record: OnPolicyRecord,
}

/// Where a sequence of the batch comes from.
enum Source {
    Ready(Sequence),
    /// What follows the prompt of this number is yet to be written.
    Unwritten(usize),
}

impl<'a> WritingStudent<'a> {
    /// From the start, or where a checkpoint has left off.
    pub fn new(
        stage: &'a OnPolicyStage<'a>,
        data: &'a LoaderConfig,
        total_steps: u64,
        state: Option<OnPolicyState>,
    ) -> Self {
        let prompts = stage.prompts.clone();
        Self {
            stage,
            data,
            total_steps,
            prompts: prompts.map(|ids| Prompts::new(ids, data.seed)),
            state: state.unwrap_or_else(|| OnPolicyState {
                share: AdaptiveShare::new(stage.config.share),
                prompts_taken: 0,
                replay: ReplayBuffer::default(),
            }),
        }
    }

    pub fn state(&self) -> &OnPolicyState {
        &self.state
    }

    /// Takes note of a held-out loss.
    pub fn evaluated(&mut self, loss: f64) {
        if let Some(rule) = &self.stage.config.adaptive {
            self.state.share.evaluated(rule, loss);
        }
    }

    /// The batch of `step`, from 0: `batch`, in which each sequence is with the probability of the share one of the
    /// student's. A prompt of the batch keeps its place, so all samples of the data are still visited once an epoch.
    pub fn compose(&mut self, step: u64, decoder: &Decoder, batch: &Batch) -> Composed {
        let _phase = phase!("generate");
        let start = Instant::now();
        (self.stage.scoring)();
        let (sources, prompts, replayed) = self.sources(step, batch);
        let answers = self.write(step, decoder, &prompts);
        let written: Vec<Written> = prompts
            .into_iter()
            .zip(answers)
            .map(|(prompt, answer)| Written {
                step,
                prompt,
                answer,
            })
            .collect();
        let sequences: Vec<Sequence> = sources
            .into_iter()
            .map(|source| match source {
                Source::Ready(sequence) => sequence,
                Source::Unwritten(number) => written[number].sequence(),
            })
            .collect();
        let (length, pad) = (self.data.sequence_length, self.data.pad);
        let alone = self.data.packing == Packing::None;
        let samples: Vec<WrittenSample> = written.iter().map(|w| self.sample(w)).collect();
        let generated_tokens = samples.iter().map(|sample| sample.tokens).sum();
        let ended = |sample: &&WrittenSample| sample.finish_reason == Finish::EndOfSequence;
        let of_generated = |sum: usize| {
            let mean = sum as f64 / samples.len() as f64;
            (!samples.is_empty()).then_some(mean)
        };
        let record = OnPolicyRecord {
            share: self.state.share.share,
            sequences: sequences.len(),
            generated: samples.len(),
            replayed,
            generated_tokens,
            finished: of_generated(samples.iter().filter(ended).count()),
            mean_length: of_generated(generated_tokens),
            generate_seconds: start.elapsed().as_secs_f64(),
            score_seconds: 0.0,
            train_seconds: 0.0,
        };
        if let Some(replay) = &self.stage.config.replay {
            self.state.replay.add(replay, written);
        }
        Composed {
            batch: Batch::of_sequences(&sequences, length, pad, alone),
            samples,
            record,
        }
    }

    /// Where each sequence comes from, the prompts that are to be continued, and how many are from the buffer. Each
    /// sequence has its own draws, so that none depends on what became of those before it.
    fn sources(&mut self, step: u64, batch: &Batch) -> (Vec<Source>, Vec<Vec<u32>>, usize) {
        let random = |purpose: &str| Random::new(self.data.seed, &self.data.stage, step, purpose);
        let (mut shares, mut ages) = (random("on-policy share"), random("on-policy fresh"));
        let mut from_buffer = random("on-policy replay");
        let replay = self.stage.config.replay.as_ref();
        if let Some(replay) = replay {
            self.state.replay.forget(replay, step);
        }
        let fresh = replay.map_or(1.0, |replay| replay.fresh.at(step, self.total_steps));
        let (mut prompts, mut taken) = (Vec::new(), BTreeSet::new());
        let mut sources = Vec::new();
        for sequence in batch.sequences() {
            let is_students = shares.f64() < self.state.share.share;
            let is_fresh = ages.f64() < fresh;
            if !is_students {
                sources.push(Source::Ready(sequence));
                continue;
            }
            let old = match is_fresh {
                true => None,
                false => self.state.replay.draw(&mut taken, &mut from_buffer),
            };
            let prompt = match (&old, &mut self.prompts) {
                (Some(_), _) => None,
                (None, Some(prompts)) => {
                    self.state.prompts_taken += 1;
                    Some(prompts.get(self.state.prompts_taken - 1).to_vec())
                }
                (None, None) => sequence.prompt().map(<[u32]>::to_vec),
            };
            sources.push(match (old, prompt) {
                (Some(written), _) => Source::Ready(written.sequence()),
                (None, Some(prompt)) => {
                    prompts.push(prompt);
                    Source::Unwritten(prompts.len() - 1)
                }
                (None, None) => Source::Ready(sequence),
            });
        }
        (sources, prompts, taken.len())
    }

    fn write(&self, step: u64, decoder: &Decoder, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
        let config = GenerationConfig {
            sampling: self.stage.config.sampling.config(),
            max_new_tokens: self.stage.config.max_new_tokens,
            eos_token_ids: self.stage.eos_token_ids.clone(),
            vocabulary: self.stage.vocabulary,
            rows: ROWS_AT_A_TIME,
            shared: 0,
        };
        let purposes: Vec<String> = (0..prompts.len())
            .map(|number| format!("on-policy token of step {step}, sequence {number}"))
            .collect();
        let uniform = |prompt: usize, token: usize| {
            let purpose = &purposes[prompt];
            Random::new(self.data.seed, &self.data.stage, token as u64, purpose).f64()
        };
        let length = self.data.sequence_length;
        let mut keep_going =
            |prompt: usize, ids: &[u32]| prompts[prompt].len() + ids.len() < length;
        generate(decoder, prompts, &config, &uniform, &mut keep_going)
    }

    fn sample(&self, written: &Written) -> WrittenSample {
        let text = |ids: &[u32], skip_special: bool| {
            // Half a character at the end of a sequence that was cut is no error here.
            let decoded = self.stage.tokenizer.decode(ids, skip_special);
            decoded.unwrap_or_default()
        };
        let last = written.answer.last();
        let ended = last.is_some_and(|last| self.stage.eos_token_ids.contains(last));
        WrittenSample {
            step: written.step + 1,
            prompt: text(&written.prompt, false),
            text: text(&written.answer, true),
            tokens: written.answer.len(),
            finish_reason: match ended {
                true => Finish::EndOfSequence,
                false => Finish::Length,
            },
        }
    }
}

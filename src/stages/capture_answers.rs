//! Stage `capture` with `from = "answers"`: targets from what a server told with the answers that it wrote.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail};
use datasets::mask::{SampleEncoder, TokenizedSample};
use datasets::records::{Record as Line, read_batches};
use datasets::sample::Sample;
use datasets::selection::COUNTS;
use rayon::prelude::*;
use serde_json::to_value;
use teacher::shards::Encoding;
use teacher::shards::answer_targets::{AnswerCounts, AnswerTargets, Untold, tells_the_model};
use teacher::shards::header::EntropyOf;
use teacher::shards::shard_file::{ShardArrays, Target, write_shard};
use teacher::synth::record::Record;

use super::capture::{Prepared, remove_other_shards};
use super::corpus::encoder;
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::recipe::Capture;

/// Shards on their way onto the disk, sample by sample.
struct Writing<'a> {
    prepared: &'a Prepared,
    /// The sample that comes next, and its first piece.
    sample: usize,
    piece: usize,
    shard: usize,
    arrays: ShardArrays,
    counts: AnswerCounts,
}

/// What one record gives.
type Told = (TokenizedSample, Result<Vec<Option<Target>>, Untold>);

impl Chain<'_> {
    /// The number of shards that were written when it was stopped from outside, if it was.
    pub fn capture_answers(&self, stage: &PlannedStage, config: &Capture) -> Result<Option<u64>> {
        let Encoding::TopK(top) = config.encoding else {
            bail!("draws need the whole distribution");
        };
        let remote = self.remote(stage)?.context("no server has told these")?;
        let tokenizer = self.tokenizer_of_remote(stage)?;
        let rows = tokenizer.vocabulary_size();
        let teacher = (rows, "unknown".to_string(), EntropyOf::ListAndTail);
        let prepared = self.prepare_capture(stage, config, &tokenizer, teacher)?;
        let vocabulary = prepared.plan.description.vocabulary;
        let targets = AnswerTargets::new(tokenizer, top, vocabulary);
        let encoder = encoder(config.chat_template.as_deref(), &targets.tokenizer)?;
        let told = |line: &Line| read(line, &remote.model, &encoder, &targets);
        let mut writing = Writing {
            prepared: &prepared,
            sample: 0,
            piece: 0,
            shard: 0,
            arrays: ShardArrays::default(),
            counts: AnswerCounts::default(),
        };
        let mut end = 0;
        for ((key, _), part) in config.data.names().zip(prepared.corpus.caches()) {
            end += part.len();
            let (name, data) = self.data_config(stage, &key)?;
            let (mut failed, mut stopped) = (None, false);
            let limit = data.limit.map_or(u64::MAX, |limit| limit as u64);
            read_batches(&data, &mut |mut batch| {
                stopped = self.stop.load(Ordering::Relaxed);
                batch.retain(|line| line.number <= limit);
                let is_all = batch.last().is_none_or(|line| line.number == limit);
                let read: Result<Vec<Told>> = batch.par_iter().map(told).collect();
                let taken = read.and_then(|told| writing.take(told, end, &targets));
                failed = taken.err();
                Ok(match stopped || is_all || failed.is_some() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            })?;
            if let Some(error) = failed {
                return Err(error.context(format!("data `{name}`")));
            }
            if stopped {
                return Ok(Some(writing.shard as u64));
            }
            if writing.sample < end {
                bail!(
                    "data `{name}`: its answers cannot be told apart from what was tokenised\nhint: `from = \"answers\"` reads what a stage `generate` leaves: a conversation a line as `messages`"
                );
            }
        }
        let counts = writing.counts;
        if counts.with_target == 0 {
            bail!("none of the answers has a target: {}", described(&counts));
        }
        eprintln!("      targets: {}", described(&counts));
        write_json(&stage.directory.join(COUNTS), &to_value(&counts)?)?;
        remove_other_shards(&prepared.directory, prepared.plan.shards.len())?;
        Ok(None)
    }
}

/// What a line of answers tells of its own tokens.
fn read(
    line: &Line,
    model: &str,
    encoder: &SampleEncoder,
    targets: &AnswerTargets,
) -> Result<Told> {
    let place = || format!("{}, record {}", line.path.display(), line.row);
    let record: Record = serde_json::from_str(&line.line).with_context(|| {
        format!(
            "{}: this is no answer of a stage `generate`, with `messages`, `lineage` and `logprobs`",
            place()
        )
    })?;
    if record.lineage.model != model {
        bail!(
            "{}: `{}` wrote this answer, and `teacher` is `{model}`\nhint: `teacher` is the model of the stage `generate`",
            place(),
            record.lineage.model
        );
    }
    if !tells_the_model(&record.lineage.parameters) {
        bail!(
            "{}: this answer is drawn at another temperature than 1, or with `top_p`: not every server then tells the log-probabilities of the model as it is\nhint: generate at `temperature` 0, or 1 with `top_p` 1",
            place()
        );
    }
    let sample = encoder
        .encode(&Sample::Conversation(record.messages))
        .with_context(place)?;
    let found = targets.of_answer(&sample, &record.logprobs);
    if let Err(Untold::NoDistribution(problem)) = &found {
        bail!(
            "{}: what the server tells is no distribution: {problem}",
            place()
        );
    }
    Ok((sample, found))
}

impl Writing<'_> {
    /// Takes records, whose samples end before `end`.
    fn take(&mut self, told: Vec<Told>, end: usize, targets: &AnswerTargets) -> Result<()> {
        for (sample, found) in told {
            // What has nothing to learn, or does not read as a sample, is not in the corpus.
            let corpus = &self.prepared.corpus;
            if self.sample == end || corpus.sample(self.sample).ids != sample.ids {
                continue;
            }
            self.counts.answers += 1;
            let learned = sample.supervised_count();
            let found = found.unwrap_or_else(|why| {
                match why {
                    Untold::NoLogprobs => self.counts.not_told += 1,
                    Untold::OtherTokens(says) | Untold::NoDistribution(says) => {
                        self.counts.other_tokens += 1;
                        self.counts.example.get_or_insert(says);
                    }
                }
                vec![None; learned]
            });
            self.write_sample(&found, targets)?;
        }
        Ok(())
    }

    /// `found`: of the sample's learned tokens.
    fn write_sample(&mut self, found: &[Option<Target>], targets: &AnswerTargets) -> Result<()> {
        let Prepared {
            corpus,
            pieces,
            plan,
            directory,
        } = self.prepared;
        let supervised = corpus.sample(self.sample).supervised;
        while self.piece < pieces.len() && pieces.piece(self.piece).sample as usize == self.sample {
            let predicted = pieces.piece(self.piece).predicted();
            let before = |end: usize| supervised[..end].iter().filter(|flag| **flag != 0).count();
            let of_piece = &found[before(predicted.start)..before(predicted.end)];
            self.counts.tokens += of_piece.len();
            self.counts.with_target += of_piece.iter().flatten().count();
            let of_piece: Vec<Target> = (of_piece.iter())
                .map(|target| target.clone().unwrap_or_else(|| targets.unknown()))
                .collect();
            self.arrays.push_piece(&of_piece);
            let number = self.shard;
            let of_shard = plan
                .shards
                .get(number)
                .ok_or_else(|| anyhow!("too many pieces"))?;
            if self.arrays.piece_ends.len() == of_shard.pieces.len() {
                let arrays = std::mem::take(&mut self.arrays);
                write_shard(directory, plan.header(number), &arrays)?;
                self.shard += 1;
            }
            self.piece += 1;
        }
        self.sample += 1;
        Ok(())
    }
}

fn described(counts: &AnswerCounts) -> String {
    let mut line = format!(
        "{} of {} tokens of {} answers",
        counts.with_target, counts.tokens, counts.answers
    );
    if counts.not_told > 0 {
        line += &format!("; {} answers without log-probabilities", counts.not_told);
    }
    if counts.other_tokens > 0 {
        line += &format!(
            "; {} answers are other tokens for the server than here",
            counts.other_tokens
        );
    }
    if let Some(example) = &counts.example {
        line += &format!(" ({example})");
    }
    line
}

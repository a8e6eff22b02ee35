//! Stage `capture`: a teacher's targets on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use datasets::mixture::Corpus;
use datasets::pieces::PieceList;
use datasets::tokenizer::Tokenizer;
use teacher::local::LocalTeacher;
use teacher::shards::capture::Capture as LocalCapture;
use teacher::shards::header::{EntropyOf, FORMAT, TokenDescription};
use teacher::shards::plan::{CapturePlan, plan_shards};
use teacher::shards::remote_capture::{PieceTokens, RemoteCapture};
use teacher::shards::shard_file::{ShardArrays, Target, shard_path, write_shard};
use teacher::shards::{Description, Encoding, ShardError, SoftTargets};
use teacher::synth::asker::Asker;
use teacher::synth::in_order::Answered;
use teacher::teacher::Teacher;
use teacher::vocabulary;
use trainer::config::TrainConfig;
use trainer::loss::LossConfig;

use super::Chain;
use super::corpus::{encoder, pad_of};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Capture, CaptureFrom, Origin};

/// Where a stage `capture` leaves its shards, and a tokenizer to read their ids.
pub const TARGETS: &str = "targets";

/// What a capture goes over, and what it leaves.
pub(super) struct Prepared {
    pub corpus: Corpus,
    pub pieces: PieceList,
    pub plan: CapturePlan,
    pub directory: PathBuf,
}

impl Chain<'_> {
    /// The number of shards that were done when it was stopped from outside, if it was.
    pub fn capture(
        &self,
        stage: &PlannedStage,
        config: &Capture,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        if config.from == CaptureFrom::Answers {
            return self.capture_answers(stage, config);
        }
        if self.remote(stage)?.is_some() {
            return self.capture_remote(stage, config, progress);
        }
        let opened = self.open_model(stage, "teacher")?;
        let context = opened.decoder.config.max_position_embeddings;
        if config.sequence_length > context {
            bail!(
                "`sequence_length` is {}, but the teacher sees {context} tokens at most\nhint: lower `sequence_length`",
                config.sequence_length
            );
        }
        let rows = opened.decoder.head().rows();
        let dtype = format!("{:?}", self.placement.compute).to_lowercase();
        let teacher = (rows, dtype, EntropyOf::Whole);
        let prepared = self.prepare_capture(stage, config, &opened.tokenizer, teacher)?;
        let Prepared {
            plan, directory, ..
        } = &prepared;
        let pad = pad_of(&opened.tokenizer);
        let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
        let capture = LocalCapture {
            teacher: &teacher as &dyn Teacher,
            corpus: &prepared.corpus,
            pieces: &prepared.pieces,
            rows: config.micro_batch,
            pad,
            plan,
        };
        let bar = progress.scoring("targets", "tokens");
        bar.set_length(plan.targets());
        for (number, shard) in plan.shards.iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                return Ok(Some(number as u64));
            }
            if !plan.is_done(directory, number) {
                capture.write(directory, number)?;
            }
            bar.inc(shard.targets as u64);
        }
        bar.finish_and_clear();
        remove_other_shards(directory, plan.shards.len())?;
        Ok(None)
    }

    /// As [`Chain::capture`], of a teacher that is asked for the most probable tokens.
    fn capture_remote(
        &self,
        stage: &PlannedStage,
        config: &Capture,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let Encoding::TopK(top) = config.encoding else {
            bail!("draws need the whole distribution");
        };
        let tokenizer = self.tokenizer_of_remote(stage)?;
        let rows = tokenizer.vocabulary_size();
        let teacher = (rows, "unknown".to_string(), EntropyOf::ListAndTail);
        let prepared = self.prepare_capture(stage, config, &tokenizer, teacher)?;
        let Prepared {
            corpus,
            pieces,
            plan,
            directory,
        } = &prepared;
        let missing: Vec<usize> = (0..plan.shards.len())
            .filter(|number| !plan.is_done(directory, *number))
            .collect();
        let of_missing = missing
            .iter()
            .flat_map(|number| plan.shards[*number].pieces.clone());
        let wanted: Vec<usize> = of_missing.collect();
        let capture = Arc::new(RemoteCapture {
            tokenizer,
            top,
            vocabulary: plan.description.vocabulary,
        });
        let ask = |asker: Arc<Asker>, number: usize| {
            let piece = PieceTokens::of(corpus, pieces, wanted[number]);
            let capture = capture.clone();
            async move {
                let targets = capture.targets(&asker, &piece).await?;
                Ok(Answered {
                    records: vec![targets],
                    ..Answered::default()
                })
            }
        };
        let mut under_way = missing.iter();
        let (mut written, mut arrays) = (plan.shards.len() - missing.len(), ShardArrays::default());
        let mut shard = under_way.next();
        let mut on_piece = |targets: &Vec<Target>| {
            arrays.push_piece(targets);
            if let Some(&number) = shard
                && arrays.piece_ends.len() == plan.shards[number].pieces.len()
            {
                write_shard(directory, plan.header(number), &std::mem::take(&mut arrays))?;
                written += 1;
                shard = under_way.next();
            }
            Ok(())
        };
        let seeds = (wanted.len(), "pieces of samples");
        let asked = self.ask_all(stage, seeds, config.budget, &ask, &mut on_piece, progress)?;
        self.write_ledger(stage, &asked)?;
        asked.result?;
        if asked.outcome.stopped {
            return Ok(Some(written as u64));
        }
        remove_other_shards(directory, plan.shards.len())?;
        Ok(None)
    }

    /// Plans the shards and makes room for them. `teacher`: rows of its head, what it computes in, and whose entropy is told.
    pub(super) fn prepare_capture(
        &self,
        stage: &PlannedStage,
        config: &Capture,
        tokenizer: &Tokenizer,
        (rows, dtype, entropy): (usize, String, EntropyOf),
    ) -> Result<Prepared> {
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let corpus = self.corpus(stage, &config.data, &encoder)?;
        let pieces = PieceList::new(&corpus, config.sequence_length);
        let tokens = TokenDescription::of(tokenizer, &encoder, &corpus, config.sequence_length);
        let vocabulary = vocabulary::compare(tokenizer, tokenizer, [], rows, rows)?;
        if let Encoding::TopK(top) = config.encoding
            && top.k as usize > rows
        {
            bail!(
                "`k` is {}, but the teacher's vocabulary has {rows} tokens\nhint: lower `k`",
                top.k
            );
        }
        let shards = plan_shards(&corpus, &pieces, config.shard_tokens);
        let plan = CapturePlan {
            description: Description {
                format: FORMAT,
                encoding: config.encoding,
                temperature: config.temperature,
                dtype,
                vocabulary,
                teacher: self.digest_of_input(stage, "teacher")?,
                entropy_of: entropy,
                seed: match config.encoding {
                    Encoding::Sampled(_) => self.recipe.seed,
                    Encoding::TopK(_) => 0,
                },
                tokens,
                shards: shards.len(),
            },
            shards,
        };
        if plan.targets() == 0 {
            bail!(
                "the data has nothing to learn within `sequence_length` = {}",
                config.sequence_length
            );
        }
        let directory = stage.directory.join(TARGETS);
        std::fs::create_dir_all(&directory)
            .and_then(|()| super::remove_leftovers(&directory, "."))
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        tokenizer.save(&directory)?;
        Ok(Prepared {
            corpus,
            pieces,
            plan,
            directory,
        })
    }

    pub fn digest_of_input(&self, stage: &PlannedStage, key: &str) -> Result<String> {
        let input = (stage.inputs.iter()).find(|input| input.input.reference.key == key);
        let input = input.with_context(|| format!("the stage has no input `{key}`"))?;
        Ok(input.digest.to_string())
    }

    /// The stored targets that a stage learns from, if they were captured from just what it trains on.
    ///
    /// # Errors
    /// What is wrong with the shards, or which field differs.
    pub fn stored_targets(
        &self,
        stage: &PlannedStage,
        tokens: &TokenDescription,
        columns: usize,
        losses: &[LossConfig],
    ) -> Result<SoftTargets> {
        let input = self.input(stage, "teacher.shards")?;
        let directory: PathBuf = match &input.origin {
            Origin::Targets(path) => path.clone(),
            origin => self
                .made_by(origin)
                .context("a stage of this recipe")?
                .directory
                .join(TARGETS),
        };
        let targets = SoftTargets::open(&directory)?;
        let description = targets.description();
        description.tokens.check(tokens, &directory)?;
        let differs = |field, captured: String, wanted: String| ShardError::Differs {
            path: directory.clone(),
            field,
            captured,
            wanted,
        };
        if description.vocabulary > columns {
            let captured = description.vocabulary.to_string();
            let wanted = format!("at most the student's {columns}");
            return Err(differs("vocabulary", captured, wanted).into());
        }
        let captured = description.temperature;
        for (i, loss) in losses.iter().enumerate() {
            let LossConfig::ForwardKl(kl) = loss else {
                continue;
            };
            if kl.temperature != captured {
                let wanted = kl.temperature.to_string();
                return Err(differs("temperature", captured.to_string(), wanted))
                    .with_context(|| self.key_of(stage, &format!("loss.{i}")));
            }
        }
        Ok(targets)
    }

    /// What stored targets have to be made of to fit a training stage.
    pub fn token_description(
        &self,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
        corpus: &Corpus,
    ) -> Result<TokenDescription> {
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let length = config.sequence_length;
        Ok(TokenDescription::of(tokenizer, &encoder, corpus, length))
    }
}

/// Shards beyond the last are from a capture that was cut otherwise and did not end.
pub(super) fn remove_other_shards(directory: &Path, shards: usize) -> Result<()> {
    let beyond = (shards..).map(|number| shard_path(directory, number));
    for path in beyond.take_while(|path| path.exists()) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

//! Stage `capture`: a teacher's targets on disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use datasets::mixture::Corpus;
use datasets::pieces::PieceList;
use datasets::tokenizer::Tokenizer;
use teacher::local::LocalTeacher;
use teacher::shards::capture::{Capture as Capturing, plan_shards};
use teacher::shards::header::{FORMAT, TokenDescription};
use teacher::shards::shard_file::shard_path;
use teacher::shards::{Description, Encoding, ShardError, SoftTargets};
use teacher::teacher::Teacher;
use teacher::vocabulary;
use trainer::config::TrainConfig;
use trainer::loss::LossConfig;

use super::Chain;
use super::corpus::{encoder, pad_of};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Capture, Origin};

/// Where a stage `capture` leaves its shards, and a tokenizer to read their ids.
pub const TARGETS: &str = "targets";

impl Chain<'_> {
    /// The number of shards that were done when it was stopped from outside, if it was.
    pub fn capture(
        &self,
        stage: &PlannedStage,
        config: &Capture,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let opened = self.open_model(stage, "teacher")?;
        let context = opened.decoder.config.max_position_embeddings;
        if config.sequence_length > context {
            bail!(
                "`sequence_length` is {}, but the teacher sees {context} tokens at most\nhint: lower `sequence_length`",
                config.sequence_length
            );
        }
        let tokenizer = &opened.tokenizer;
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let corpus = self.corpus(stage, &config.data, &encoder)?;
        let pieces = PieceList::new(&corpus, config.sequence_length);
        let tokens = TokenDescription::of(tokenizer, &encoder, &corpus, config.sequence_length);
        let rows = opened.decoder.head().rows();
        let vocabulary = vocabulary::compare(tokenizer, tokenizer, [], rows, rows)?;
        if let Encoding::TopK(top) = config.encoding
            && top.k as usize > rows
        {
            bail!(
                "`k` is {}, but the teacher's vocabulary has {rows} tokens\nhint: lower `k`",
                top.k
            );
        }
        let plans = plan_shards(&corpus, &pieces, config.shard_tokens);
        let total: u64 = plans.iter().map(|plan| plan.targets as u64).sum();
        if total == 0 {
            bail!(
                "the data has nothing to learn within `sequence_length` = {}",
                config.sequence_length
            );
        }
        let dtype = format!("{:?}", self.placement.compute).to_lowercase();
        let pad = pad_of(tokenizer);
        let directory = stage.directory.join(TARGETS);
        std::fs::create_dir_all(&directory)
            .and_then(|()| super::remove_leftovers(&directory, "."))
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        tokenizer.save(&directory)?;
        let teacher_digest = self.digest_of_input(stage, "teacher")?;
        let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
        let capture = Capturing {
            teacher: &teacher as &dyn Teacher,
            corpus: &corpus,
            pieces: &pieces,
            rows: config.micro_batch,
            pad,
            targets_per_shard: config.shard_tokens,
            description: Description {
                format: FORMAT,
                encoding: config.encoding,
                temperature: config.temperature,
                dtype,
                vocabulary,
                teacher: teacher_digest,
                seed: match config.encoding {
                    Encoding::Sampled(_) => self.recipe.seed,
                    Encoding::TopK(_) => 0,
                },
                tokens,
                shards: plans.len(),
            },
        };
        let bar = progress.scoring("targets");
        bar.set_length(total);
        for (number, plan) in plans.iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                bar.finish_and_clear();
                return Ok(Some(number as u64));
            }
            if !capture.is_done(&directory, number, plan) {
                capture.write(&directory, number, plan)?;
            }
            bar.inc(plan.targets as u64);
        }
        bar.finish_and_clear();
        remove_other_shards(&directory, plans.len())?;
        Ok(None)
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
fn remove_other_shards(directory: &Path, shards: usize) -> Result<()> {
    let beyond = (shards..).map(|number| shard_path(directory, number));
    for path in beyond.take_while(|path| path.exists()) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

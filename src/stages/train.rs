//! Stages `sft` and `distill`, and what all training stages share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use datasets::loader::BatchLoader;
use datasets::pieces::PieceList;
use datasets::tokenizer::Tokenizer;
use model::decoder::Decoder;
use model::fake_quantization::QuantizationTarget;
use model::weights::checkpoint::Checkpoint;
use model::weights::gguf_types::plan_tensors;
use teacher::local::{LocalTeacher, eos_token_ids};
use teacher::teacher::Teacher;
use teacher::vocabulary;
use trainer::adapter::Adapter;
use trainer::config::TrainConfig;
use trainer::loss::{LossConfig, LossEntries};
use trainer::objective::{Guide, Objective, TokenObjective, Trainee};
use trainer::on_policy::config::OnPolicy;
use trainer::on_policy::scoring_clock::ScoringClock;
use trainer::on_policy::student::OnPolicyStage;
use trainer::quantization_aware::QuantizationAware;
use trainer::run::{Outcome, Run};

use super::Chain;
use super::models::{OpenModel, place_of_result};
use crate::adapter;
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Distill, Sft, TeacherChoice};

/// All that a training stage needs, whichever its kind.
pub struct Training<'a> {
    pub trainee: Trainee,
    pub tokenizer: Tokenizer,
    pub objective: Objective<'a>,
    pub data: BatchLoader,
    pub heldout: Option<BatchLoader>,
    pub config: &'a TrainConfig,
    pub on_policy: Option<Writing<'a>>,
    /// What the adapter is trained beside; `None` where the model itself is trained.
    pub base: Option<Checkpoint>,
}

/// What a student is given that writes itself.
pub struct Writing<'a> {
    pub config: &'a OnPolicy,
    /// How long the teacher has taken since this was asked last.
    pub scoring: &'a (dyn Fn() -> Duration + Sync),
    /// How many leading tokens of the vocabulary it may draw.
    pub vocabulary: usize,
    /// In place of those of the data.
    pub prompts: Option<Vec<Vec<u32>>>,
}

impl Chain<'_> {
    pub fn sft(
        &self,
        stage: &PlannedStage,
        config: &Sft,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let (student, base) = self.open_student(stage, "model", &config.train)?;
        self.check_context(stage, "model", &student.decoder, &config.train)?;
        let data = self.training_data(
            stage,
            &config.inputs.data,
            &config.train,
            &student.tokenizer,
        )?;
        let entries = LossEntries::new(&[LossConfig::CrossEntropy(Default::default())])?;
        let objective = TokenObjective {
            entries,
            teacher: None,
            valid: student.decoder.head().rows(),
        };
        let training =
            self.token_training(stage, (student, base), data, objective, &config.train)?;
        self.train(stage, training, progress)
    }

    pub fn distill(
        &self,
        stage: &PlannedStage,
        config: &Distill,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        match &config.inputs.teacher {
            TeacherChoice::Shards(_) => return self.distill_from_shards(stage, config, progress),
            TeacherChoice::Remote(asked) => {
                return self.distill_from_server(stage, config, asked, progress);
            }
            TeacherChoice::Model(_) => {}
        }
        if is_universal(&config.inputs.loss) {
            return self.distill_across_tokenizers(stage, config, progress);
        }
        let (student, base) = self.open_student(stage, "student", &config.train)?;
        let teacher = self.open_model(stage, "teacher")?;
        self.check_context(stage, "student", &student.decoder, &config.train)?;
        self.check_context(stage, "teacher", &teacher.decoder, &config.train)?;
        let data = self.training_data(
            stage,
            &config.inputs.data,
            &config.train,
            &student.tokenizer,
        )?;
        let valid = vocabulary::compare(
            &student.tokenizer,
            &teacher.tokenizer,
            used_ids(&data),
            student.decoder.head().rows(),
            teacher.decoder.head().rows(),
        )?;
        let both =
            [&student, &teacher].map(|model| (&model.tokenizer, model.decoder.head().rows()));
        let prompts = self.student_prompts(stage, config, &data, both, valid)?;
        let teacher = LocalTeacher::new(teacher.decoder, teacher.tokenizer)?;
        let scoring = ScoringClock::new(&teacher);
        let taken = || scoring.take();
        let on_policy = config.inputs.on_policy.as_ref();
        let objective = TokenObjective {
            entries: LossEntries::new(&config.inputs.loss)?,
            teacher: Some(Guide::Model(match on_policy {
                Some(_) => &scoring as &dyn Teacher,
                None => &teacher,
            })),
            valid,
        };
        let (student_layers, teacher_layers) = objective.layers();
        check_layers("student", &student_layers, student.decoder.blocks.len())
            .with_context(|| self.key_of(stage, "loss"))?;
        check_layers("teacher", &teacher_layers, teacher.decoder().blocks.len())
            .with_context(|| self.key_of(stage, "loss"))?;
        let entries = objective.entries.clone();
        let mut training =
            self.token_training(stage, (student, base), data, objective, &config.train)?;
        let width = teacher.decoder().config.hidden_size;
        (training.trainee).add_projections(&entries, width, self.recipe.seed);
        training.on_policy = on_policy.map(|config| Writing {
            config,
            scoring: &taken,
            vocabulary: valid,
            prompts,
        });
        self.train(stage, training, progress)
    }

    /// As [`Chain::distill`], with a teacher that has spoken already.
    fn distill_from_shards(
        &self,
        stage: &PlannedStage,
        config: &Distill,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let Distill { inputs, train } = config;
        let (student, base) = self.open_student(stage, "student", train)?;
        self.check_context(stage, "student", &student.decoder, train)?;
        let data = self.training_data(stage, &inputs.data, train, &student.tokenizer)?;
        let tokens = self.token_description(train, &student.tokenizer, data.corpus())?;
        let columns = student.decoder.head().rows();
        let targets = self.stored_targets(stage, &tokens, columns, &inputs.loss)?;
        let pieces = PieceList::new(data.corpus(), train.sequence_length);
        let objective = TokenObjective {
            entries: LossEntries::new(&inputs.loss)?,
            teacher: Some(Guide::Stored(&targets, &pieces)),
            valid: columns,
        };
        let training = self.token_training(stage, (student, base), data, objective, train)?;
        self.train(stage, training, progress)
    }

    /// As [`Chain::distill`], with a teacher that reads the data in tokens of its own.
    fn distill_across_tokenizers(
        &self,
        stage: &PlannedStage,
        config: &Distill,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let Distill { inputs, train } = config;
        let (student, base) = self.open_student(stage, "student", train)?;
        let opened = self.open_model(stage, "teacher")?;
        self.check_context(stage, "student", &student.decoder, train)?;
        let data = self.training_data(stage, &inputs.data, train, &student.tokenizer)?;
        let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
        let tokenizers = (&student.tokenizer, train.chat_template.as_deref());
        let across = self.across_tokenizers(stage, &inputs.data, tokenizers, &teacher)?;
        let rows = student.decoder.head().rows();
        let valid = vocabulary::compare(&student.tokenizer, &student.tokenizer, [], rows, rows)?;
        let objective = TokenObjective {
            entries: LossEntries::new(&inputs.loss)?,
            teacher: Some(Guide::Across(&across)),
            valid,
        };
        let training = self.token_training(stage, (student, base), data, objective, train)?;
        self.train(stage, training, progress)
    }

    /// A student that learns token by token and writes nothing itself.
    pub(super) fn token_training<'a>(
        &self,
        stage: &PlannedStage,
        (student, base): (OpenModel, Option<Checkpoint>),
        data: BatchLoader,
        objective: TokenObjective<'a>,
        config: &'a TrainConfig,
    ) -> Result<Training<'a>> {
        Ok(Training {
            heldout: self.heldout_data(stage, config, &student.tokenizer)?,
            trainee: Trainee::new(student.decoder),
            tokenizer: student.tokenizer,
            objective: Objective::Tokens(objective),
            data,
            config,
            on_policy: None,
            base,
        })
    }

    /// What is trained: the model, or an adapter beside it.
    pub(super) fn open_student(
        &self,
        stage: &PlannedStage,
        key: &str,
        config: &TrainConfig,
    ) -> Result<(OpenModel, Option<Checkpoint>)> {
        match &config.adapter {
            None => Ok((self.open_trainable(stage, key)?, None)),
            Some(Adapter::Lora(lora)) => {
                let (opened, base) = self.open_adaptable(stage, key, lora)?;
                Ok((opened, Some(base)))
            }
        }
    }

    /// Refuses rows that are longer than what a model was made for.
    pub(super) fn check_context(
        &self,
        stage: &PlannedStage,
        side: &str,
        decoder: &Decoder,
        config: &TrainConfig,
    ) -> Result<()> {
        let context = decoder.config.max_position_embeddings;
        match config.sequence_length > context {
            true => anyhow::bail!(
                "{} is {}, but the {side} sees {context} tokens at most\nhint: lower `sequence_length`",
                self.key_of(stage, "sequence_length"),
                config.sequence_length
            ),
            false => Ok(()),
        }
    }

    pub(super) fn train(
        &self,
        stage: &PlannedStage,
        training: Training,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let Training {
            mut trainee,
            tokenizer,
            objective,
            data,
            heldout,
            config,
            on_policy,
            base,
        } = training;
        trainee.dropout.seed = self.recipe.seed;
        progress.data(&data);
        if base.is_some() {
            progress.adapter(&trainee.decoder);
        }
        let on_policy = on_policy.map(|writing| OnPolicyStage {
            config: writing.config,
            tokenizer: &tokenizer,
            eos_token_ids: eos_token_ids(&trainee.decoder, &tokenizer),
            vocabulary: writing.vocabulary,
            prompts: writing.prompts,
            scoring: writing.scoring,
        });
        let run = Run {
            config,
            objective,
            heldout,
            on_policy,
            data: Arc::new(data),
            directory: stage.directory.clone(),
            stage_digest: stage.digest.to_string(),
            stop: self.stop,
        };
        let (warmup, total) = (config.schedule.warmup_steps(), run.total_steps());
        if warmup > total {
            anyhow::bail!(
                "{} is {warmup}, but the whole run has {total} steps",
                self.key_of(stage, "schedule.warmup_steps")
            );
        }
        if let Some(aware) = &config.quantization_aware {
            (trainee.decoder.check_fake_quantization(aware.target()))
                .with_context(|| self.key_of(stage, "quantization_aware"))?;
            progress.rounding(aware.first_step(total) + 1, total);
            if let QuantizationTarget::Gguf(kind) = aware.target() {
                Progress::other_types(&plan_tensors(&trainee.decoder.config, kind));
            }
        }
        self.write_seen(stage, &run.data, &tokenizer)?;
        let mut observer = progress.training(run.objective.names());
        let outcome = run.train(&mut trainee, &mut observer);
        observer.finish();
        match outcome? {
            Outcome::Stopped { step } => Ok(Some(step)),
            Outcome::Finished { .. } => {
                let decoder = &trainee.decoder;
                match (&config.adapter, &base) {
                    (Some(Adapter::Lora(lora)), Some(base)) => {
                        let target = place_of_result(stage)?;
                        adapter::save(&target, decoder, &tokenizer, lora, base)?;
                    }
                    _ => {
                        let aware = config.quantization_aware.as_ref();
                        let codes = aware.and_then(QuantizationAware::described);
                        let codes = codes.map(|method| (method, decoder.integer_layers()));
                        self.save_model(stage, decoder, &tokenizer, codes.as_ref())?;
                    }
                }
                Ok(None)
            }
        }
    }
}

fn is_universal(losses: &[LossConfig]) -> bool {
    (losses.iter()).any(|loss| matches!(loss, LossConfig::UniversalLogit(_)))
}

/// Every id that the data holds, once.
pub(super) fn used_ids(data: &BatchLoader) -> Vec<u32> {
    let mut used = Vec::new();
    let corpus = data.corpus();
    for number in 0..corpus.len() {
        for &id in corpus.sample(number).ids {
            let id = id as usize;
            if id >= used.len() {
                used.resize(id + 1, false);
            }
            used[id] = true;
        }
    }
    (0..used.len() as u32)
        .filter(|&id| used[id as usize])
        .collect()
}

fn check_layers(side: &str, layers: &[usize], blocks: usize) -> Result<()> {
    match layers.iter().find(|&&layer| layer > blocks) {
        Some(layer) => anyhow::bail!(
            "a loss compares layer {layer} of the {side}, which has {blocks} blocks\nhint: layer 0 is the embedding, layer i the output of block i"
        ),
        None => Ok(()),
    }
}

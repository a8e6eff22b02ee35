//! What is known of a stage that trains: its models, its losses, its data.

use datasets::template_tokens::TemplateTokens;
use trainer::config::TrainConfig;
use trainer::loss::{LossConfig, LossEntries};

use super::activations::Holding;
use super::data_facts::DataFacts;
use super::disk::target_bytes;
use super::known::{Facts, Known, lora_of, student_key};
use super::layout::RowLayout;
use super::loss::LossShape;
use super::shape::{LoraShape, ModelShape};
use super::stage::{ROWS, Setting};
use super::training::Training;
use crate::recipe::{Action, Origin, Recipe, TeacherChoice};

/// More bytes than any machine has; a sum of such numbers is still one.
const MOST_BYTES: f64 = (1_u64 << 55) as f64;

/// Of a mapped token: its id and whether it is learned.
const TOKEN_BYTES: f64 = 5.0;
/// What the system maps around the tokens of a row that is read; measured on Linux 6.18 with a file of 58 MB.
const MAPPED_AROUND_A_ROW: f64 = 1.2e6;

/// What a tokenizer keeps of the words that it has seen: of a byte of text, and at most; measured.
const OF_TEXT: u64 = 50;
const WORDS_AT_MOST: u64 = 15 << 20;

/// The models of a training stage, by what they do in it.
pub struct Trained {
    pub student: ModelShape,
    pub teacher: Option<ModelShape>,
    pub reference: Option<ModelShape>,
    pub lora: Option<LoraShape>,
    pub losses: Vec<LossConfig>,
    pub pairs: bool,
    /// The share of the sequences that the student writes, and the tokens of each at most.
    pub writing: Option<(f64, usize)>,
    /// Bytes of a stored target.
    pub target_bytes: f64,
    pub data: Known<DataFacts>,
    /// Full where the data is not known.
    pub row: RowLayout,
    /// Of an epoch.
    pub rows: Option<u64>,
    /// What is held out: a row of it, and how many.
    pub heldout: Option<(RowLayout, u64)>,
    /// Whether pairs are compared with what a reference says of them.
    pub asks_reference: bool,
}

impl Trained {
    /// What is known of the models of a training stage.
    ///
    /// # Errors
    /// What is not known, and what would tell it.
    pub fn of(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<Self> {
        let action = &recipe.stages[stage].action;
        let config = action.training().ok_or("it trains nothing")?;
        let lora = lora_of(action);
        let student = facts.model(stage, student_key(action))?;
        let (mut teacher, mut reference) = (None, None);
        let (mut writing, mut target_bytes) = (None, 0.0);
        let mut losses = vec![LossConfig::CrossEntropy(Default::default())];
        let mix = match action {
            Action::Sft(sft) => &sft.inputs.data,
            Action::Distill(distill) => {
                if let TeacherChoice::Model(_) = &distill.inputs.teacher {
                    teacher = Some(facts.model(stage, "teacher")?);
                }
                let on_policy = distill.inputs.on_policy.as_ref();
                writing = on_policy.map(|written| (written.share, written.max_new_tokens));
                target_bytes = stored_target(recipe, stage, student.config.vocab_size);
                losses.clone_from(&distill.inputs.loss);
                &distill.inputs.data
            }
            Action::Dpo(dpo) => {
                if dpo.inputs.reference.is_some() {
                    reference = Some(facts.model(stage, "reference")?);
                }
                &dpo.inputs.data
            }
            _ => return Err("it trains nothing".into()),
        };
        let data = facts.mixture(stage, mix).and_then(readable);
        let template = match &config.chat_template {
            Some(own) => TemplateTokens::of(own),
            None => student.template,
        };
        let template = template.unwrap_or(TemplateTokens::USUAL);
        let laid_out = |data: &DataFacts| {
            RowLayout::of(data, template, config.packing, config.sequence_length)
        };
        let heldout = facts.data(stage, "heldout").and_then(readable).ok();
        let laid = data.as_ref().map(laid_out);
        Ok(Self {
            student,
            teacher,
            reference,
            lora,
            losses,
            pairs: matches!(action, Action::Dpo(_)),
            writing,
            target_bytes,
            row: laid.map_or(RowLayout::full(config.sequence_length), |(row, _)| row),
            rows: laid.map(|(_, rows)| rows).ok(),
            heldout: heldout.as_ref().map(laid_out),
            asks_reference: matches!(action, Action::Dpo(dpo) if !dpo.inputs.loss.reference_free()),
            data,
        })
    }

    /// Of the stage; estimated from its data where `epochs` are given.
    pub fn steps(&self, config: &TrainConfig) -> Option<u64> {
        let of_batches = || {
            let batches = self.rows?.div_ceil(config.rows_per_step().max(1) as u64);
            Some(config.total_steps(batches))
        };
        config.steps.or_else(of_batches)
    }

    pub fn holding(&self) -> Holding<'_> {
        match &self.lora {
            None => Holding::Trained,
            Some(lora) => Holding::Adapted(lora),
        }
    }

    pub fn trainable(&self) -> u64 {
        match &self.lora {
            None => self.student.parameters(),
            Some(lora) => self.student.lora_parameters(lora),
        }
    }

    /// Rows of a microbatch, and how many of them a step has.
    pub fn micro(config: &TrainConfig) -> (usize, usize) {
        let rows = config.rows_per_step().max(1);
        let micro = config.micro_batch.unwrap_or(rows.min(4)).clamp(1, rows);
        (micro, rows.div_ceil(micro))
    }

    /// Rows of a step that hold anything: the last ones of a small data set are padding.
    pub fn filled_rows(&self, config: &TrainConfig) -> usize {
        let rows = config.rows_per_step().max(1);
        self.rows.map_or(rows, |all| (all as usize).clamp(1, rows))
    }

    /// Supervised positions of a microbatch, at most.
    pub fn positions(&self, config: &TrainConfig) -> usize {
        let rows = Self::micro(config).0.min(self.filled_rows(config));
        rows * self.row.most_learned
    }

    pub fn training(&self, config: &TrainConfig, setting: Setting) -> Training<'_> {
        let (micro_rows, micro_batches) = Self::micro(config);
        let entries = LossEntries::new(&self.losses).ok();
        let needs = |f: fn(&LossEntries) -> bool| entries.as_ref().is_some_and(f);
        let compares = needs(LossEntries::compares);
        let layers = |loss: &LossConfig| loss.layers().map_or(0, <[[usize; 2]]>::len);
        let teacher = self.teacher.as_ref();
        let vocabulary = self.student.config.vocab_size;
        let all = teacher.map_or(0, |teacher| teacher.config.vocab_size);
        Training {
            student: &self.student,
            holding: self.holding(),
            teacher,
            teacher_tokens: micro_rows * config.sequence_length,
            reference: self.reference.as_ref(),
            compared_layers: self.losses.iter().map(layers).sum(),
            micro_rows,
            micro_batches,
            length: config.sequence_length,
            checkpoint: config.checkpoint_blocks,
            heldout: config.heldout.is_some(),
            fake_quantized: config.quantization_aware.is_some(),
            writing: (self.writing)
                .map(|_| (ROWS.min(config.rows_per_step()), config.sequence_length)),
            loss: LossShape {
                positions: self.positions(config),
                teacher: (teacher.filter(|_| compares))
                    .map(|teacher| (teacher.config.hidden_size, teacher.config.vocab_size)),
                logits: self.pairs || compares || needs(LossEntries::needs_labels),
            },
            token_bytes: self.token_bytes(config),
            target_bytes: self.mapped_targets(config),
            process_bytes: (setting.process)(vocabulary, self.student.gguf_tokenizer)
                .max(teacher.map_or(0, |t| (setting.process)(all, t.gguf_tokenizer)))
                + if setting.numbers.packs {
                    self.seen_words()
                } else {
                    0
                },
            numbers: setting.numbers,
        }
    }

    /// Of the shards what the steps read.
    fn mapped_targets(&self, config: &TrainConfig) -> usize {
        let read = self.rows_read(config).unwrap_or(0);
        (read as f64 * self.row.learned as f64 * self.target_bytes).min(MOST_BYTES) as usize
    }

    /// Rows that are read once or more.
    fn rows_read(&self, config: &TrainConfig) -> Option<u64> {
        let steps = config.steps.unwrap_or(u64::MAX);
        let read = steps.saturating_mul(config.rows_per_step() as u64);
        Some(self.rows?.min(read))
    }

    /// What the tokenizer keeps of the words that it has seen, where the data is not cut into tokens yet.
    fn seen_words(&self) -> usize {
        let text = (self.data.as_ref()).map_or(0, DataFacts::text_bytes);
        WORDS_AT_MOST.min(text.saturating_mul(OF_TEXT)) as usize
    }

    /// Of the mapped tokens what is touched.
    fn token_bytes(&self, config: &TrainConfig) -> usize {
        let all = TOKEN_BYTES * self.rows.unwrap_or(0) as f64 * self.row.tokens as f64;
        let read = self.rows_read(config).unwrap_or(0) as f64;
        let touched = match self.teacher {
            // The vocabularies are compared over every token.
            Some(_) => all,
            None => all.min(read * MAPPED_AROUND_A_ROW),
        };
        let heldout = self.heldout.map_or(0.0, |(row, rows)| {
            TOKEN_BYTES * rows as f64 * row.tokens as f64
        });
        (touched + heldout).min(MOST_BYTES) as usize
    }
}

/// Data whose file was read, or is too large to be.
fn readable(data: DataFacts) -> Known<DataFacts> {
    match &data.problem {
        Some(problem) => Err(problem.to_string()),
        None => Ok(data),
    }
}

/// Bytes of a target that an earlier stage stores for this one; 0 where there is none.
fn stored_target(recipe: &Recipe, stage: usize, vocabulary: usize) -> f64 {
    let mut makers = recipe.inputs[stage]
        .iter()
        .filter_map(|input| match input.origin {
            Origin::Stage(maker) => match &recipe.stages[maker].action {
                Action::Capture(capture) => Some(capture.encoding),
                _ => None,
            },
            _ => None,
        });
    (makers.next()).map_or(0.0, |encoding| target_bytes(&encoding, vocabulary))
}

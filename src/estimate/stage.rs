//! What each kind of stage holds, by what it does.

use trainer::config::TrainConfig;
use trainer::loss::{LossConfig, LossEntries};

use super::activations::{Holding, Numbers, Pass};
use super::disk::target_bytes;
use super::known::{DataFacts, Facts, Known, lora_of, student_key};
use super::kv_cache;
use super::ledger::{Array, Ledger, Memory, Part};
use super::loss::{self, LossShape};
use super::machine;
use super::requests::{self, Asked};
use super::shape::{ModelShape, TensorShape};
use super::training::Training;
use crate::recipe::{Action, CaptureFrom, Measure, Origin, Recipe, TeacherChoice};
use crate::source::ModelSource;

/// Positions that evaluations compute together (`evals::perplexity`, `evals::likelihood`).
const POSITIONS: usize = 2048;
/// Bytes of a tensor that are encoded together (`model::weights::safetensors_writer`).
const PIECE: usize = 256 << 10;
/// Most bytes of keys and values that evaluations hold (`evals::subject::batches`).
const EVALUATED_CACHE: usize = 2 << 30;
/// Tokens of a prompt where nothing tells.
const PROMPT_TOKENS: usize = 256;
/// Sequences that a local model writes together (`teacher::synth::local_queue`).
pub const ROWS: usize = 16;

/// Where a stage would run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub numbers: Numbers,
    /// What the process holds before any model, for a vocabulary of so many tokens, from a GGUF file or not.
    pub process: fn(usize, bool) -> usize,
}

/// The models of a training stage, by what they do in it.
pub struct Trained {
    pub student: ModelShape,
    pub teacher: Option<ModelShape>,
    pub reference: Option<ModelShape>,
    pub lora: Option<super::shape::LoraShape>,
    pub losses: Vec<LossConfig>,
    pub pairs: bool,
    /// The share of the sequences that the student writes, and the tokens of each at most.
    pub writing: Option<(f64, usize)>,
    /// Bytes of a stored target.
    pub target_bytes: f64,
    pub data: Known<DataFacts>,
}

impl Setting {
    pub fn on(is_cuda: bool) -> Self {
        Self {
            numbers: machine::numbers(is_cuda),
            process: match is_cuda {
                true => machine::process_on_cuda,
                false => machine::process_on_cpu,
            },
        }
    }
}

impl Trained {
    /// What is known of the models of a training stage.
    ///
    /// # Errors
    /// What is not known, and what would tell it.
    pub fn of(recipe: &Recipe, facts: &Facts, stage: usize) -> Known<Self> {
        let action = &recipe.stages[stage].action;
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
        let first = mix.names().next().map(|(key, _)| key).unwrap_or_default();
        Ok(Self {
            student,
            teacher,
            reference,
            lora,
            losses,
            pairs: matches!(action, Action::Dpo(_)),
            writing,
            target_bytes,
            data: facts.data(stage, &first),
        })
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

    fn learned_share(&self) -> f64 {
        match &self.data {
            Ok(data) if !self.pairs => data.learned_share(),
            _ => 1.0,
        }
    }

    /// Rows of a microbatch, and how many of them a step has.
    pub fn micro(config: &TrainConfig) -> (usize, usize) {
        let rows = config.rows_per_step().max(1);
        let micro = config.micro_batch.unwrap_or(rows.min(4)).clamp(1, rows);
        (micro, rows.div_ceil(micro))
    }

    /// Supervised positions of a microbatch, about.
    pub fn positions(&self, config: &TrainConfig) -> usize {
        let tokens = Self::micro(config).0 * config.sequence_length;
        ((tokens as f64 * self.learned_share()).ceil() as usize).clamp(1, tokens.max(1))
    }

    pub fn training(&self, config: &TrainConfig, setting: Setting) -> Training<'_> {
        let (micro_rows, micro_batches) = Self::micro(config);
        let entries = LossEntries::new(&self.losses).ok();
        let needs = |f: fn(&LossEntries) -> bool| entries.as_ref().is_some_and(f);
        let compares = needs(LossEntries::needs_teacher_logits) || needs(LossEntries::is_universal);
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
            // Five bytes a token: its id and whether it is learned. Touched where a step reads them.
            token_bytes: self.token_bytes(config),
            target_bytes: self.mapped_targets(config),
            process_bytes: (setting.process)(vocabulary, self.student.gguf_tokenizer)
                .max(teacher.map_or(0, |t| (setting.process)(all, t.gguf_tokenizer))),
            numbers: setting.numbers,
        }
    }

    /// Of the shards what the steps read.
    fn mapped_targets(&self, config: &TrainConfig) -> usize {
        let held = self.data.as_ref().map_or(0, DataFacts::tokens);
        let steps = config.steps.unwrap_or(u64::MAX);
        let read = held.min(steps.saturating_mul(config.tokens_per_step as u64));
        (read as f64 * self.learned_share() * self.target_bytes) as usize
    }

    fn token_bytes(&self, config: &TrainConfig) -> usize {
        let held = self.data.as_ref().map_or(0, DataFacts::tokens);
        let steps = config.steps.unwrap_or(u64::MAX);
        let read = steps.saturating_mul(config.tokens_per_step as u64);
        // The vocabularies are compared over every token.
        let touched = match self.teacher {
            Some(_) => held,
            None => held.min(read),
        };
        5 * touched as usize
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

/// What a stage holds at most.
///
/// # Errors
/// What is not known, and what would tell it.
pub fn memory(recipe: &Recipe, facts: &Facts, stage: usize, setting: Setting) -> Known<Memory> {
    let action = &recipe.stages[stage].action;
    if let Some(config) = action.training() {
        let trained = Trained::of(recipe, facts, stage)?;
        return Ok(trained.training(config, setting).memory());
    }
    let model = |key: &str| facts.model(stage, key);
    let mut reading = Reading::new(setting);
    match action {
        Action::Prune(prune) => {
            let model = model("model")?;
            let arrays = reading.load(&model, Part::Weights);
            let measures = prune
                .keep_layers
                .as_ref()
                .is_some_and(|keep| keep.data().is_some())
                || prune.ffn_width.is_some();
            if measures {
                reading.forward(&model, POSITIONS, 0, Part::Weights);
            }
            // The blocks that go make room for what is written.
            let kept = facts
                .made(stage)
                .map_or(1, |made| made.config.num_hidden_layers);
            let share = kept as f64 / model.config.num_hidden_layers.max(1) as f64;
            let gone = |tensor: &TensorShape| {
                let layer = tensor
                    .name
                    .split('.')
                    .nth(2)
                    .and_then(|n| n.parse::<usize>().ok());
                let reached = |layers: usize| (layers as f64 * share).floor();
                layer.is_some_and(|layer| reached(layer) == reached(layer + 1))
            };
            let arrays = model.tensors.iter().zip(arrays);
            let arrays = arrays.filter(|(tensor, _)| gone(tensor));
            reading.ledger.give_all(arrays.map(|(_, array)| array));
            reading.write(&model);
        }
        Action::Gqa(_) => {
            let model = model("model")?;
            let _held = reading.load(&model, Part::Weights);
            reading.write(&model);
        }
        Action::Export(export) => {
            let model = model("model")?;
            reading.process(&model);
            if model.adapter.is_some() && setting.numbers.packs {
                // All of the base's file is mapped before its first and largest tensor is read.
                let read = ModelShape {
                    adapter: None,
                    ..model.clone()
                }
                .mapped_bytes();
                let others = model.mapped_bytes() - read;
                reading.ledger.fix(Part::Weights, others);
            }
            reading.write(&model);
            if export.inputs.verify.is_some() {
                // Before and after, side by side.
                let _held = reading.load(&model, Part::Weights);
                let _held = reading.load(&model, Part::Teacher);
                reading.forward(&model, POSITIONS, POSITIONS, Part::Activations);
            }
        }
        Action::Quantize(quantize) => {
            let model = model("model")?;
            let _held = reading.load(&model, Part::Teacher);
            let _held = reading.load(&ModelShape::dense(model.config.clone()), Part::Weights);
            let calibration = quantize.calibration.as_ref();
            let longest = calibration.map_or(0, |calibration| calibration.sequence_length);
            reading.forward(&model, POSITIONS.max(longest), POSITIONS, Part::Activations);
        }
        Action::Eval(eval) => {
            let mut kept = reading.ledger.memory();
            let mut most = kept.clone();
            let asked = requests::asked(recipe, facts, stage).ok().flatten();
            for (number, name) in eval.inputs.models.iter().enumerate() {
                if is_behind_server(recipe, name) {
                    continue;
                }
                let model = model(&format!("models.{number}"))?;
                let mut reading = Reading::new(setting);
                let _held = reading.load(&model, Part::Weights);
                match &eval.measure {
                    Measure::Acceptance(_) => {
                        reading.generate(&model, PROMPT_TOKENS, PROMPT_TOKENS, ROWS);
                    }
                    measure if measure.is_written() => {
                        let (prompt, new, texts) = lengths(asked.as_ref(), PROMPT_TOKENS);
                        let rows = evaluated_rows(&model, prompt + new).min(texts);
                        reading.generate(&model, prompt, new, rows);
                    }
                    Measure::Perplexity(windows) => {
                        // A window at a time, of which the last stride counts.
                        let window = windows.window.unwrap_or(POSITIONS);
                        let stride = windows.stride.unwrap_or(window / 2);
                        let positions = windows.window.unwrap_or(0).max(POSITIONS);
                        reading.forward(&model, positions, stride, Part::Activations);
                    }
                    _ => reading.forward(&model, POSITIONS, POSITIONS, Part::Activations),
                }
                let found = reading.ledger.memory();
                // The file of a model is mapped on top of what the heap has kept of the one before.
                let opening = match setting.numbers.packs {
                    true => kept.clone().beside(Part::Weights, model.mapped_bytes()),
                    false => kept.clone(),
                };
                most = larger(most, larger(opening, found.clone()));
                kept = larger(kept, found);
            }
            return Ok(most);
        }
        Action::Capture(capture) if capture.from == CaptureFrom::Teacher => {
            let model = match model("teacher") {
                Ok(model) => model,
                Err(_) if is_remote(recipe, action) => return Ok(reading.ledger.memory()),
                Err(unknown) => return Err(unknown),
            };
            let tokens = capture.micro_batch * capture.sequence_length;
            let _held = reading.load(&model, Part::Teacher);
            reading.forward(&model, tokens, tokens, Part::Activations);
        }
        Action::CodeQuality(stage_config) => {
            let embedder = model("embedder")?;
            let _held = reading.load(&embedder, Part::Teacher);
            reading.forward(&embedder, POSITIONS, 0, Part::Activations);
            let found = reading.ledger.memory();
            if stage_config.teacher.is_none() || is_remote(recipe, action) {
                return Ok(found);
            }
            // One after the other.
            let asking = writing(recipe, facts, stage, setting)?;
            return Ok(larger(asking, found));
        }
        _ if is_remote(recipe, action) => {}
        Action::Generate(_) | Action::Rate(_) | Action::Judge(_) | Action::Exercises(_) => {
            return writing(recipe, facts, stage, setting);
        }
        _ => {}
    }
    Ok(reading.ledger.memory())
}

fn larger(a: Memory, b: Memory) -> Memory {
    match a.total < b.total {
        true => b,
        false => a,
    }
}

/// A teacher here that writes for the stage.
fn writing(recipe: &Recipe, facts: &Facts, stage: usize, setting: Setting) -> Known<Memory> {
    let model = facts.model(stage, "teacher")?;
    let asked = requests::asked(recipe, facts, stage).ok().flatten();
    let new = longest_answer(&recipe.stages[stage].action);
    let (prompt, new, texts) = lengths(asked.as_ref(), new);
    let mut reading = Reading::new(setting);
    let _held = reading.load(&model, Part::Teacher);
    reading.generate(&model, prompt, new, ROWS.min(texts));
    Ok(reading.ledger.memory())
}

/// Tokens of a prompt and of an answer, and how many texts there are.
fn lengths(asked: Option<&Asked>, new: usize) -> (usize, usize, usize) {
    match asked {
        Some(asked) => (
            asked.prompt.max(1),
            asked.new as usize,
            usize::try_from(asked.texts).unwrap_or(usize::MAX).max(1),
        ),
        None => (PROMPT_TOKENS, new, usize::MAX),
    }
}

/// Sequences that an evaluation writes together (`evals::subject::batches`).
fn evaluated_rows(model: &ModelShape, length: usize) -> usize {
    let length = length.min(model.config.max_position_embeddings);
    let each = kv_cache::bytes(&model.config, length, 1, size_of::<f32>()) as usize;
    (EVALUATED_CACHE / each.max(1)).clamp(1, ROWS)
}

/// Tokens of an answer at most.
fn longest_answer(action: &Action) -> usize {
    let most = match action {
        Action::Generate(stage) => stage.sampling.max_tokens,
        Action::Rate(stage) => stage.sampling.max_tokens,
        Action::Judge(stage) => stage.sampling.max_tokens,
        Action::Exercises(stage) => stage.sampling.max_tokens,
        Action::CodeQuality(stage) => stage.sampling.max_tokens,
        _ => 1,
    };
    most as usize
}

/// Whether whom the stage asks is behind a server.
pub fn is_remote(recipe: &Recipe, action: &Action) -> bool {
    (action.asks()).is_some_and(|(name, _)| is_behind_server(recipe, name))
}

pub fn is_behind_server(recipe: &Recipe, name: &str) -> bool {
    let model = recipe.models.get(name);
    model.is_some_and(|model| matches!(model.source, ModelSource::Remote(_)))
}

/// A stage that only reads models.
struct Reading {
    ledger: Ledger,
    setting: Setting,
    /// Of the largest tokenizer so far.
    process: usize,
}

impl Reading {
    fn new(setting: Setting) -> Self {
        let mut ledger = Ledger::new();
        let process = (setting.process)(0, true);
        ledger.fix(Part::Process, process);
        Self {
            ledger,
            setting,
            process,
        }
    }

    /// What a larger tokenizer takes more.
    fn process(&mut self, model: &ModelShape) {
        let needed = (self.setting.process)(model.config.vocab_size, model.gguf_tokenizer);
        let more = needed.saturating_sub(self.process);
        self.ledger.fix(Part::Process, more);
        self.process += more;
    }

    fn pass<'m>(&self, model: &'m ModelShape, tokens: usize, part: Part) -> Pass<'m> {
        Pass {
            model,
            holding: Holding::Frozen(model.form()),
            tokens,
            numbers: self.setting.numbers,
            weights: part,
            part,
        }
    }

    /// The arrays that stay, in checkpoint order.
    fn load(&mut self, model: &ModelShape, part: Part) -> Vec<Array> {
        self.process(model);
        self.pass(model, 0, part).load(&mut self.ledger)
    }

    fn forward(&mut self, model: &ModelShape, tokens: usize, scored: usize, part: Part) {
        let hidden = self
            .pass(model, tokens, part)
            .hidden_states(&mut self.ledger);
        let config = &model.config;
        if scored > 0 {
            loss::score(
                &mut self.ledger,
                scored,
                config.hidden_size,
                config.vocab_size,
            );
        }
        self.ledger.give(hidden);
    }

    /// `rows` sequences: prompts are read together, then the caches grow.
    fn generate(&mut self, model: &ModelShape, prompt: usize, new: usize, rows: usize) {
        let config = &model.config;
        let length = prompt
            .saturating_add(new)
            .min(config.max_position_embeddings);
        let bytes =
            kv_cache::bytes(config, length, rows, self.setting.numbers.activations) as usize;
        let cache = self.ledger.take(Part::KvCache, bytes);
        self.forward(
            model,
            POSITIONS.min(rows.saturating_mul(prompt)),
            0,
            Part::Activations,
        );
        self.ledger
            .pass(Part::LossChunks, rows * model.config.vocab_size * 4);
        self.ledger.give(cache);
    }

    /// Tensor after tensor, each in `f32` and, in pieces, as it is written.
    fn write(&mut self, model: &ModelShape) {
        let sizes = model.tensors.iter().map(|tensor| tensor.elements());
        let largest = 4 * sizes.max().unwrap_or(0);
        let values = self.ledger.take(Part::Activations, largest);
        let pieces: Vec<Array> = (0..largest.div_ceil(PIECE))
            .map(|_| self.ledger.take(Part::Activations, PIECE))
            .collect();
        self.ledger.give_all(pieces);
        self.ledger.give(values);
    }
}

//! What a stage holds that reads models and trains none.

use evals::likelihood::{CACHED_BYTES, LEAST_SHARED};
use evals::text_size::{GroupSize, TextSize};

use super::activations::{Holding, Pass};
use super::kv_cache;
use super::ledger::{Array, Ledger, Part};
use super::loss;
use super::shape::{ModelShape, TensorShape};
use super::stage::Setting;

/// Positions that evaluations compute together (`evals::perplexity`, `evals::likelihood`).
pub const POSITIONS: usize = 2048;

/// Bytes of a tensor that are encoded together (`model::weights::safetensors_writer`).
const PIECE: usize = 256 << 10;

/// Texts that a model writes together.
#[derive(Clone, Copy)]
pub struct Written {
    pub rows: usize,
    /// Tokens of a prompt, 1 at least.
    pub prompt: usize,
    /// Tokens that all prompts begin with.
    pub shared: usize,
    /// Tokens of an answer.
    pub new: usize,
}

/// A stage that only reads models.
pub struct Reading {
    pub ledger: Ledger,
    pub setting: Setting,
    /// Of the largest tokenizer so far.
    process: usize,
}

impl Reading {
    pub fn new(setting: Setting) -> Self {
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
    pub fn process(&mut self, model: &ModelShape) {
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
    pub fn load(&mut self, model: &ModelShape, part: Part) -> Vec<Array> {
        self.process(model);
        self.pass(model, 0, part).load(&mut self.ledger)
    }

    pub fn forward(&mut self, model: &ModelShape, tokens: usize, scored: usize, part: Part) {
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

    /// `rows` sequences: prompts are read together, some at a time, into caches that have room for answers.
    pub fn generate(&mut self, model: &ModelShape, written: Written) {
        let config = &model.config;
        let Written {
            rows,
            prompt,
            shared,
            new,
        } = written;
        let bytes = |length: usize, rows: usize| {
            let length = length.min(config.max_position_embeddings);
            kv_cache::bytes(config, length, rows, self.setting.numbers.activations) as usize
        };
        let (own, shared) = (prompt - shared.min(prompt - 1), shared.min(prompt - 1));
        let read = (POSITIONS / own).clamp(1, rows);
        let (start, states) = (bytes(shared, 1), bytes(prompt, read));
        let caches = bytes(prompt.saturating_add(new), rows);
        let [start, states, caches] =
            [start, states, caches].map(|bytes| self.ledger.take(Part::KvCache, bytes));
        self.forward(model, read * own, 0, Part::Activations);
        self.ledger
            .pass(Part::LossChunks, rows * config.vocab_size * 4);
        self.ledger.give_all([start, states, caches]);
    }

    /// Texts behind what each group begins with, scored some at a time (`evals::likelihood`).
    pub fn score(&mut self, model: &ModelShape, texts: &TextSize) {
        let position = kv_cache::bytes(&model.config, 1, 1, size_of::<f32>()) as usize;
        let context = model.config.max_position_embeddings;
        // Batches are cut by choices, of which those of one letter share a row.
        let rows: usize = texts.groups.iter().map(|group| group.rows).sum();
        let choices = texts.sequences.div_ceil(rows.max(1) as u64).max(1) as usize;
        // Rows and positions of a batch, and what is held for it.
        let batch = |group: &GroupSize| {
            let (length, shared) = (
                (group.longest.ceil() as usize).clamp(1, context),
                group.shared as usize,
            );
            if group.rows < 2 || shared < LEAST_SHARED {
                let rows = (POSITIONS / length / choices).clamp(1, group.rows.max(1));
                return (rows, rows * length, [0, 0]);
            }
            let own = length.saturating_sub(shared).max(1);
            let rows = (POSITIONS / own).min(CACHED_BYTES / (length * position).max(1));
            let rows = (rows / choices).clamp(1, group.rows);
            let held = [shared * position, rows * length * position];
            (rows, shared.max(rows * own), held)
        };
        let batches: Vec<_> = texts.groups.iter().map(batch).collect();
        let held = batches.iter().map(|(.., held)| held);
        let held = held.max_by_key(|held| held.iter().sum::<usize>());
        let held = held.map(|held| held.map(|bytes| self.ledger.take(Part::KvCache, bytes)));
        let most = |of: fn(&(usize, usize, [usize; 2])) -> usize| batches.iter().map(of).max();
        let rows = most(|(rows, ..)| *rows).unwrap_or(1);
        let positions = most(|(_, positions, _)| *positions).unwrap_or(POSITIONS);
        let scored = texts.scored_here / (texts.sequences as f64).max(1.0) * rows as f64;
        let scored = (scored.ceil() as usize).clamp(1, POSITIONS);
        self.forward(model, positions, scored, Part::Activations);
        self.ledger.give_all(held.into_iter().flatten());
    }

    /// Tensor after tensor: each is read from its file, becomes `f32`, and then what is written, of `bytes` a tensor.
    pub fn write(&mut self, model: &ModelShape, bytes: impl Fn(&TensorShape) -> usize) {
        let beside = |tensor: &TensorShape| {
            (
                4 * tensor.elements(),
                tensor.mapped_bytes().max(bytes(tensor)),
            )
        };
        let most = model.tensors.iter().map(beside);
        let (values, beside) = most.max_by_key(|(a, b)| a + b).unwrap_or_default();
        let values = self.ledger.take(Part::Activations, values);
        // In pieces, which find room where no tensor does.
        let pieces: Vec<Array> = (0..beside.div_ceil(PIECE))
            .map(|_| self.ledger.take(Part::Activations, PIECE))
            .collect();
        self.ledger.give_all(pieces);
        self.ledger.give(values);
    }
}

/// In `f32`.
pub fn as_f32(tensor: &TensorShape) -> usize {
    4 * tensor.elements()
}

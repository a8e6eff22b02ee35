//! What a stage holds that reads models and trains none.

use super::activations::{Holding, Pass};
use super::kv_cache;
use super::ledger::{Array, Ledger, Part};
use super::loss;
use super::shape::ModelShape;
use super::stage::Setting;

/// Positions that evaluations compute together (`evals::perplexity`, `evals::likelihood`).
pub const POSITIONS: usize = 2048;
/// Bytes of a tensor that are encoded together (`model::weights::safetensors_writer`).
const PIECE: usize = 256 << 10;

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

    /// `rows` sequences: prompts are read together, then the caches grow.
    pub fn generate(&mut self, model: &ModelShape, prompt: usize, new: usize, rows: usize) {
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
    pub fn write(&mut self, model: &ModelShape) {
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

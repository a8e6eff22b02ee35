//! The memory of a training stage: what is loaded, then one step after the other.

use model::linear::lora::BaseForm;

use super::activations::{Gradients, Holding, Numbers, Pass};
use super::kv_cache;
use super::ledger::{Array, Ledger, Memory, Part};
use super::loss::{self, LossShape};
use super::shape::ModelShape;

/// Tokens of prompts that are read together (`model::decode::prompts`).
const PROMPT_TOKENS: usize = 2048;

/// Everything that the memory of a training stage follows from.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    pub student: &'a ModelShape,
    pub holding: Holding<'a>,
    /// A model that is asked at every step.
    pub teacher: Option<&'a ModelShape>,
    /// Tokens of the teacher's microbatch, where it reads with a tokenizer of its own.
    pub teacher_tokens: usize,
    /// A model that is asked before the first step and then let go.
    pub reference: Option<&'a ModelShape>,
    /// Pairs of layers whose hidden states are compared.
    pub compared_layers: usize,
    pub micro_rows: usize,
    pub micro_batches: usize,
    pub length: usize,
    pub checkpoint: bool,
    pub heldout: bool,
    pub fake_quantized: bool,
    /// Sequences that the student writes together, and how long they get.
    pub writing: Option<(usize, usize)>,
    pub loss: LossShape,
    /// Bytes of tokens and of stored targets, mapped and read.
    pub token_bytes: usize,
    pub target_bytes: usize,
    pub process_bytes: usize,
    pub numbers: Numbers,
}

impl Training<'_> {
    fn student(&self) -> Pass<'_> {
        Pass {
            model: self.student,
            holding: self.holding,
            tokens: self.micro_rows * self.length,
            numbers: self.numbers,
            weights: Part::Weights,
            part: Part::Activations,
        }
    }

    fn asked<'b>(&self, model: &'b ModelShape) -> Pass<'b> {
        Pass {
            model,
            holding: Holding::Frozen(model.form()),
            tokens: self.teacher_tokens,
            numbers: self.numbers,
            weights: Part::Teacher,
            part: Part::Teacher,
        }
    }

    /// What the process holds at most, and for what.
    pub fn memory(&self) -> Memory {
        let mut ledger = Ledger::new();
        ledger.fix(Part::Process, self.process_bytes);
        ledger.fix(Part::Data, self.token_bytes);
        ledger.fix(Part::SoftTargets, self.target_bytes);
        if let Holding::Adapted(_) = self.holding {
            // At the end the file of the base is read through for its digest, and its pages stay.
            let file = self.student.frozen_bytes(BaseForm::AsStored);
            ledger.fix(Part::Weights, file as usize);
        }
        let student = self.student();
        let _weights = student.load(&mut ledger);
        if let Some(teacher) = self.teacher {
            let _weights = self.asked(teacher).load(&mut ledger);
        }
        if let Some(reference) = self.reference {
            self.ask_before(&mut ledger, reference);
        }
        for (_, values) in student.trained() {
            for _moment in 0..2 {
                let _held = ledger.take(Part::OptimizerState, values * self.numbers.weights);
            }
        }
        if self.fake_quantized {
            // Beside every matrix its rounded values, in blocks of about a byte.
            for tensor in (self.student.tensors.iter()).filter(|tensor| tensor.shape.len() == 2) {
                let _held = ledger.take(Part::Weights, tensor.elements());
            }
        }
        if self.heldout {
            self.evaluate(&mut ledger, &student);
        }
        let mut gradients = Gradients::new();
        // From the second microbatch of the second step on all repeat themselves.
        for _step in 0..2 {
            self.write(&mut ledger, &student);
            for _micro in 0..self.micro_batches.clamp(1, 2) {
                self.microbatch(&mut ledger, &student, &mut gradients);
            }
            ledger.give_all(gradients.drain().map(|(_, array)| array));
        }
        if self.heldout {
            self.evaluate(&mut ledger, &student);
        }
        self.save(&mut ledger, &student);
        ledger.memory()
    }

    /// Answers of the student: caches, the pass over the prompts, the last logits.
    fn write(&self, ledger: &mut Ledger, student: &Pass) {
        let Some((rows, length)) = self.writing else {
            return;
        };
        let config = &student.model.config;
        let bytes = kv_cache::bytes(config, length, rows, self.numbers.activations);
        let cache = ledger.take(Part::KvCache, bytes as usize);
        let prompts = Pass {
            tokens: (rows * length).min(PROMPT_TOKENS),
            ..*student
        };
        let hidden = prompts.hidden_states(ledger);
        ledger.pass(Part::LossChunks, rows * config.vocab_size * 4);
        ledger.give_all([hidden, cache]);
    }

    fn ask_before(&self, ledger: &mut Ledger, reference: &ModelShape) {
        let pass = self.asked(reference);
        let aside = pass.load(ledger);
        self.evaluate(ledger, &pass);
        ledger.give_all(aside);
    }

    fn microbatch(&self, ledger: &mut Ledger, student: &Pass, gradients: &mut Gradients) {
        let signal = self.teacher.map(|teacher| {
            let pass = self.asked(teacher);
            let mut kept = vec![pass.hidden_states(ledger)];
            let width = self.teacher_tokens * pass.hidden() * self.numbers.activations;
            kept.extend((0..self.compared_layers).map(|_| ledger.take(Part::Teacher, width)));
            kept
        });
        let rotation = student.rotation(ledger);
        let wide = student.tokens * student.hidden() * self.numbers.activations;
        let array = |ledger: &mut Ledger| ledger.take(Part::Activations, wide);
        let mut x = array(ledger);
        let layers = self.student.config.num_hidden_layers;
        let mut tape = Vec::with_capacity(layers);
        for layer in 0..layers {
            let (y, kept) = student.keep_block(ledger, layer, x, self.checkpoint);
            tape.push(kept);
            x = y;
        }
        let hidden = array(ledger);
        let d_hidden = array(ledger);
        let trains_head = self.holding == Holding::Trained;
        let tied = self.student.config.tie_word_embeddings;
        let head = match tied {
            true => "model.embed_tokens.weight",
            false => "lm_head.weight",
        };
        let named = (head.to_owned(), trains_head);
        loss::replay(ledger, student, gradients, self.loss, named);
        let d_layers: Vec<Array> = (0..self.compared_layers).map(|_| array(ledger)).collect();
        ledger.give_all(signal.into_iter().flatten());
        let mut dx = array(ledger);
        for (layer, kept) in tape.into_iter().enumerate().rev() {
            dx = student.backward_block(ledger, gradients, layer, (dx, kept));
        }
        if trains_head {
            let values = self.student.config.vocab_size * self.student.config.hidden_size;
            (gradients.entry("model.embed_tokens.weight".into()))
                .or_insert_with(|| ledger.take(Part::Gradients, values * self.numbers.weights));
            // Norms and biases, whose places are too small to matter.
            for vector in (self.student.tensors.iter()).filter(|tensor| tensor.shape.len() == 1) {
                let bytes = vector.elements() * self.numbers.weights;
                (gradients.entry(vector.name.clone()))
                    .or_insert_with(|| ledger.take(Part::Gradients, bytes));
            }
        }
        ledger.give_all([dx, d_hidden, hidden, x]);
        ledger.give_all(d_layers);
        ledger.give_all(rotation);
    }

    /// One batch of held-out data.
    fn evaluate(&self, ledger: &mut Ledger, pass: &Pass) {
        let config = &pass.model.config;
        let hidden = pass.hidden_states(ledger);
        let positions = self.loss.positions.max(1);
        let chosen = ledger.take(pass.part, positions * config.hidden_size * 4);
        loss::score(ledger, positions, config.hidden_size, config.vocab_size);
        ledger.give_all([hidden, chosen]);
    }

    /// The result is written tensor after tensor, each copied out once.
    fn save(&self, ledger: &mut Ledger, student: &Pass) {
        let trained = student.trained().into_iter().map(|(_, values)| values);
        let largest = trained.max().unwrap_or(0);
        ledger.pass(Part::Weights, 4 * largest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::activations::ON_CPU;
    use super::*;

    fn model() -> ModelShape {
        let json = serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": true,
        });
        let path = std::path::Path::new("test");
        ModelShape::dense(model::weights::hf_config::from_hf_json(path, &json).unwrap())
    }

    fn memory(model: &ModelShape, rows: usize, checkpoint: bool) -> Memory {
        let training = Training {
            student: model,
            holding: Holding::Trained,
            teacher: None,
            teacher_tokens: 0,
            reference: None,
            compared_layers: 0,
            micro_rows: rows,
            micro_batches: 2,
            length: 512,
            checkpoint,
            heldout: false,
            fake_quantized: false,
            writing: None,
            loss: LossShape {
                positions: rows * 512,
                teacher: None,
                logits: true,
            },
            token_bytes: 0,
            target_bytes: 0,
            process_bytes: 0,
            numbers: ON_CPU,
        };
        training.memory()
    }

    #[test]
    fn adamw_holds_eight_bytes_a_value_and_gradients_four() {
        let model = model();
        // 256·1000 + 3·(2·256 + 256·(256 + 128 + 128 + 256) + 3·256·512) + 256.
        assert_eq!(
            model.parameters(),
            256_000 + 3 * (512 + 196_608 + 393_216) + 256
        );
        let memory = memory(&model, 4, false);
        let values = model.parameters();
        assert_eq!(memory.of(Part::Weights), 4 * values);
        assert_eq!(memory.of(Part::OptimizerState), 8 * values);
        // In the second microbatch all of them are there.
        assert_eq!(memory.of(Part::Gradients), 4 * values);
    }

    #[test]
    fn a_block_keeps_what_its_backward_pass_reads_or_its_input_alone() {
        let model = model();
        let activations = |rows, checkpoint| {
            let memory = memory(&model, rows, checkpoint);
            memory.of(Part::Activations) as f64
        };
        let token = |checkpoint| {
            (activations(64, checkpoint) - activations(32, checkpoint)) / (32.0 * 512.0)
        };
        // 2·hidden + 2·queries + 2·keys + heads + 2·ffn values a block, 4 bytes each.
        let whole = 4.0 * (2.0 * 256.0 + 2.0 * 256.0 + 2.0 * 128.0 + 4.0 + 2.0 * 512.0);
        let of_three = token(false) - 3.0 * whole;
        let of_inputs = token(true) - whole - 3.0 * 4.0 * 256.0;
        // What is on the way is some arrays of the FFN's width, whichever is kept.
        assert!((0.0..4.0 * 4096.0).contains(&of_three), "{of_three}");
        assert!((0.0..4.0 * 4096.0).contains(&of_inputs), "{of_inputs}");
    }
}

//! What each kind of stage holds, by what it does.

use super::activations::Numbers;
use super::known::{Facts, Known};
use super::kv_cache;
use super::ledger::{Ledger, Memory, Part};
use super::machine::{self, Backend};
use super::program;
use super::reading::{POSITIONS, Reading, Written, as_f32};
use super::requests::{self, Asked};
use super::shape::ModelShape;
use super::surgery;
use crate::recipe::{Action, CaptureFrom, Measure, Recipe};
use crate::source::ModelSource;

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

impl Setting {
    pub fn on(backend: Backend) -> Self {
        Self {
            numbers: backend.numbers(),
            process: match backend {
                Backend::Cpu => machine::process_on_cpu,
                Backend::Cuda | Backend::Vulkan => machine::process_on_gpu,
            },
        }
    }
}

/// What a stage holds at most.
///
/// # Errors
/// What is not known, and what would tell it.
pub fn memory(recipe: &Recipe, facts: &Facts, stage: usize, setting: Setting) -> Known<Memory> {
    let action = &recipe.stages[stage].action;
    if let Some(config) = action.training() {
        let trained = facts.trained(stage)?;
        return Ok(trained.training(config, setting).memory());
    }
    let model = |key: &str| facts.model(stage, key);
    // What is changed is read as it is stored.
    let changed = || {
        let model = model("model")?;
        Ok::<_, String>(ModelShape {
            held_as: None,
            ..model
        })
    };
    let mut reading = Reading::new(setting);
    match action {
        Action::Prune(prune) => surgery::prune(&mut reading, prune, &changed()?, facts.made(stage)),
        Action::Gqa(_) => {
            let model = changed()?;
            let _held = reading.load(&model, Part::Weights);
            reading.write(&model, as_f32);
        }
        Action::Export(export) => {
            let model = changed()?;
            // What is not stored is made as a whole first.
            let _made =
                (facts.is_random(stage, "model")).then(|| reading.load(&model, Part::Weights));
            if setting.numbers.packs {
                let left = program::left_to_an_export(facts, stage);
                reading.ledger.fix(Part::Process, left);
            }
            surgery::export(&mut reading, export, &model);
        }
        Action::Quantize(quantize) => surgery::quantize(&mut reading, quantize, &changed()?),
        Action::Eval(eval) => {
            let mut kept = reading.ledger.memory();
            let mut most = kept.clone();
            let mut tokenizers = 0;
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
                        let new = PROMPT_TOKENS;
                        reading.generate(&model, lengths(None, new, ROWS));
                    }
                    measure if measure.is_written() => {
                        let mut written = lengths(asked.as_ref(), PROMPT_TOKENS, ROWS);
                        let rows = evaluated_rows(&model, written.prompt + written.new);
                        written.rows = written.rows.min(rows);
                        reading.generate(&model, written);
                    }
                    Measure::Perplexity(windows) => {
                        // A window at a time, of which the last stride counts.
                        let context = model.config.max_position_embeddings;
                        let given = windows.window.map(|window| window.min(context));
                        let window = given.unwrap_or(POSITIONS);
                        let stride = windows.stride.unwrap_or(window / 2).min(window);
                        let positions = given.unwrap_or(0).max(POSITIONS);
                        reading.forward(&model, positions, stride, Part::Activations);
                    }
                    _ => match facts.texts(stage) {
                        Ok(texts) => reading.score(&model, texts),
                        Err(_) => reading.forward(&model, POSITIONS, POSITIONS, Part::Activations),
                    },
                }
                let found = reading.ledger.memory();
                // The file of a model is mapped on top of what the heap has kept of the one before.
                // Its tokenizer, where that is the larger one, finds no room in what the one before has left.
                let process = |vocabulary| (setting.process)(vocabulary, model.gguf_tokenizer);
                let tokenizer = match process(model.config.vocab_size) > tokenizers {
                    true => process(model.config.vocab_size) - process(0),
                    false => 0,
                };
                tokenizers = tokenizers.max(process(model.config.vocab_size));
                let opening = match setting.numbers.packs {
                    true => (kept.clone())
                        .beside(Part::Weights, model.mapped_bytes())
                        .beside(Part::Process, tokenizer),
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
                Err(_) if is_remote(recipe, action) => {
                    return Ok(without_models(recipe, facts, stage, setting));
                }
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
        _ if action.sifts().is_some() || is_remote(recipe, action) => {
            return Ok(without_models(recipe, facts, stage, setting));
        }
        Action::Generate(_) | Action::Rate(_) | Action::Judge(_) | Action::Exercises(_) => {
            return writing(recipe, facts, stage, setting);
        }
        _ => {}
    }
    Ok(reading.ledger.memory())
}

fn without_models(recipe: &Recipe, facts: &Facts, stage: usize, setting: Setting) -> Memory {
    let bytes = match setting.numbers.packs {
        true => program::memory(recipe, facts, stage),
        false => (setting.process)(0, true),
    };
    let mut ledger = Ledger::new();
    ledger.fix(Part::Process, bytes);
    ledger.memory()
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
    let mut reading = Reading::new(setting);
    let _held = reading.load(&model, Part::Teacher);
    reading.generate(&model, lengths(asked.as_ref(), new, ROWS));
    Ok(reading.ledger.memory())
}

/// What is written together, `rows` texts at most.
fn lengths(asked: Option<&Asked>, new: usize, rows: usize) -> Written {
    match asked {
        Some(asked) => Written {
            rows: usize::try_from(asked.texts).map_or(rows, |texts| texts.clamp(1, rows)),
            prompt: asked.prompt.max(1),
            shared: asked.shared,
            new: asked.new as usize,
        },
        None => Written {
            rows,
            prompt: PROMPT_TOKENS,
            shared: 0,
            new,
        },
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

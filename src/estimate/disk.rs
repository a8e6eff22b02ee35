//! Bytes on disk: what a stage leaves, and what it needs while it runs.

use model::quant::block_type::GgmlType;
use model::weights::dtype::WeightDtype;
use model::weights::gguf_types::plan_tensors;
use serde::Serialize;
use teacher::shards::Encoding;

use super::known::{Facts, lora_of};
use super::shape::ModelShape;
use crate::recipe::{Action, ExportFormat, FloatType, Recipe};

/// One kind of files of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Files {
    pub what: &'static str,
    pub bytes: u64,
    pub lasts: Lasts,
}

/// How long files are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasts {
    Moment,
    /// To the end of the stage.
    Stage,
    /// They are what the stage leaves.
    Run,
}

/// Of the files that last so long at least.
pub fn bytes_of(files: &[Files], lasts: Lasts) -> u64 {
    let lasting = files.iter().filter(|files| files.lasts >= lasts);
    (lasting.map(|files| files.bytes)).fold(0, u64::saturating_add)
}

/// A checkpoint: the weights that are trained and two moments of each, in `f32`.
pub fn checkpoint_bytes(trained: u64) -> u64 {
    trained.saturating_mul(12)
}

/// What a stage writes. Nothing of what is not known.
pub fn files(recipe: &Recipe, facts: &Facts, stage: usize) -> Vec<Files> {
    let action = &recipe.stages[stage].action;
    let mut found = Vec::new();
    let mut add = |what, bytes, lasts| found.push(Files { what, bytes, lasts });
    let model = || facts.model(stage, "model").ok();
    if let Some(config) = action.training() {
        let Ok(trained) = facts.trained(stage) else {
            return found;
        };
        let values = trained.trainable();
        let kept = config.keep_checkpoints as u64;
        let steps = trained.steps(config).unwrap_or(u64::MAX);
        let written = steps.div_ceil(config.checkpoint_every.max(1));
        let each = checkpoint_bytes(values);
        let held = kept.min(written.max(1)).saturating_mul(each);
        add("checkpoints", held, Lasts::Stage);
        // The oldest goes when the newest is whole.
        if written > kept {
            add("a checkpoint being written", each, Lasts::Moment);
        }
        match lora_of(action) {
            Some(_) => add("adapter", 4 * values, Lasts::Run),
            None => add("model", 4 * values, Lasts::Run),
        }
        return found;
    }
    match action {
        Action::Prune(_) | Action::Gqa(_) => {
            let made = facts.made(stage).ok();
            add(
                "model",
                made.map_or(0, |made| 4 * made.parameters()),
                Lasts::Run,
            );
        }
        Action::Quantize(_) => {
            let parameters = model().map_or(0, |model| model.parameters());
            // The values, and codes of about a byte beside them.
            add("model", 5 * parameters, Lasts::Run);
        }
        Action::Export(export) => {
            if let Some(model) = model() {
                add("export", exported(&model, &export.format), Lasts::Run);
            }
        }
        Action::Capture(capture) => {
            let data = facts.mixture(stage, &capture.data).ok();
            let vocabulary = facts.model(stage, "teacher").map(|m| m.config.vocab_size);
            if let (Some(data), Ok(vocabulary)) = (data, vocabulary) {
                let targets = data.tokens() as f64 * data.learned_share();
                let bytes = targets * target_bytes(&capture.encoding, vocabulary);
                add("shards", bytes as u64, Lasts::Run);
            }
        }
        _ => {}
    }
    found.retain(|files| files.bytes > 0);
    found
}

fn exported(model: &ModelShape, format: &ExportFormat) -> u64 {
    let wide = |dtype: &FloatType| WeightDtype::from(*dtype).size() as u64;
    match format {
        ExportFormat::Safetensors { dtype } => wide(dtype) * model.parameters(),
        ExportFormat::Gguf { kind } => gguf_bytes(model, *kind),
        ExportFormat::Peft { dtype } => {
            let adapter = model.adapter.as_ref();
            adapter.map_or(0, |lora| wide(dtype) * model.lora_parameters(lora))
        }
        // 4-bit codes and a scale and a zero a group, the rest in `dtype`: about.
        ExportFormat::Gptq { dtype } => {
            let values = |linear: bool| -> u64 {
                let tensors = model.tensors.iter();
                let wanted =
                    tensors.filter(|t| model::weights::names::is_linear(&t.name) == linear);
                wanted.map(|tensor| tensor.elements() as u64).sum()
            };
            values(true) * 9 / 16 + wide(dtype) * values(false)
        }
    }
}

/// The tensors of a GGUF file of this type.
pub fn gguf_bytes(model: &ModelShape, kind: GgmlType) -> u64 {
    let tensors = plan_tensors(&model.config, kind);
    let bytes = tensors.iter().map(|tensor| {
        let values: usize = tensor.shape.iter().product();
        tensor.kind.bytes_of(values).unwrap_or(4 * values)
    });
    bytes.sum::<usize>() as u64
}

/// A stored target: 2 bytes of entropy, 4 of range and tail, and of every token a Golomb-coded gap between ids and its
/// probability. A gap takes log₂(vocabulary / listed) + 2 bits, about.
pub fn target_bytes(encoding: &Encoding, vocabulary: usize) -> f64 {
    let (listed, bits) = match encoding {
        Encoding::TopK(top) => (f64::from(top.k), f64::from(top.bits)),
        // Most draws fall on a few tokens: about a quarter of them are different.
        Encoding::Sampled(sampled) => ((f64::from(sampled.samples) / 4.0).max(1.0), 2.0),
    };
    let gap = (vocabulary as f64 / listed).log2().max(0.0) + 2.0;
    6.0 + listed * (gap + bits) / 8.0
}

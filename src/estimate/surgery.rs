//! What a stage holds that makes one model of another: `prune`, `quantize`, `export`.

use model::weights::dtype::WeightDtype;
use model::weights::gguf_types::plan_tensors;
use model::weights::names::is_linear;

use super::known::Known;
use super::ledger::{Array, Part};
use super::loss;
use super::reading::{POSITIONS, Reading, as_f32};
use super::shape::{ModelShape, TensorShape};
use crate::recipe::{Export, ExportFormat, KeepLayers, Prune, Quantize, QuantizeMethod};
use crate::stages::prune::CALIBRATION_LENGTH;

/// Tokens of the calibration rows that go through a model together.
const CALIBRATION_TOKENS: usize = 4 * CALIBRATION_LENGTH;
/// Codes that share a scale and a zero, about; and what these take.
const GROUP: usize = 64;
const OF_A_GROUP: usize = 5;
/// What a vocabulary takes that is written into a file, a token.
const WRITTEN_TOKEN: usize = 400;

/// Measures what the choice needs, then drops blocks and copies the channels that stay, and writes.
pub fn prune(reading: &mut Reading, prune: &Prune, model: &ModelShape, made: Known<ModelShape>) {
    let arrays = reading.load(model, Part::Weights);
    let layers = model.config.num_hidden_layers;
    if matches!(prune.keep_layers, Some(KeepLayers::Best(_))) {
        // The states before and after every block, at once.
        let states = CALIBRATION_TOKENS * model.config.hidden_size * 4;
        let kept: Vec<Array> = (0..=layers)
            .map(|_| reading.ledger.take(Part::Activations, states))
            .collect();
        reading.forward(model, CALIBRATION_TOKENS, 0, Part::Activations);
        reading.ledger.give_all(kept);
    }
    if prune.ffn_width.is_some() {
        reading.forward(model, CALIBRATION_TOKENS, 0, Part::Activations);
    }
    let made = made.ok();
    let kept = made
        .as_ref()
        .map_or(1, |made| made.config.num_hidden_layers);
    let share = kept as f64 / layers.max(1) as f64;
    let goes = |tensor: &TensorShape| {
        let reached = |layers: usize| (layers as f64 * share).floor();
        layer_of(tensor).is_some_and(|layer| reached(layer) == reached(layer + 1))
    };
    // The blocks that go make room for what comes.
    let mut stay = Vec::new();
    for (tensor, array) in model.tensors.iter().zip(arrays) {
        match goes(tensor) {
            true => reading.ledger.give(array),
            false => stay.push((tensor, array)),
        }
    }
    if let (Some(_), Some(made)) = (&prune.ffn_width, &made) {
        let width = made.config.intermediate_size as f64 / model.config.intermediate_size as f64;
        for (tensor, array) in stay {
            if tensor.name.contains(".mlp.") {
                let values = 4 * tensor.elements();
                let whole = reading.ledger.take(Part::Weights, values);
                let cut = (values as f64 * width) as usize;
                let _stays = reading.ledger.take(Part::Weights, cut);
                reading.ledger.give_all([whole, array]);
            }
        }
    }
    reading.write(model, as_f32);
}

/// The model as it was beside the rounded one, both asked for logits, then the rounded one is written.
pub fn quantize(reading: &mut Reading, quantize: &Quantize, model: &ModelShape) {
    let _held = reading.load(model, Part::Teacher);
    let calibration = quantize.calibration.as_ref();
    let tokens = calibration.map_or(0, |calibration| {
        calibration.sequences * calibration.sequence_length
    });
    if let Some(calibration) = calibration {
        // The states of all of the text, and of some of it what a block computes.
        let states = 4 * tokens * model.config.hidden_size;
        let states = reading.ledger.take(Part::Activations, states);
        let together = POSITIONS.max(calibration.sequence_length).min(tokens);
        reading.forward(model, together, 0, Part::Activations);
        reading.ledger.give(states);
    }
    let blocks = match &quantize.method {
        QuantizeMethod::Ggml(blocks) => plan_tensors(&model.config, blocks.kind),
        _ => Vec::new(),
    };
    for tensor in &model.tensors {
        let (values, elements) = (4 * tensor.elements(), tensor.elements());
        let kind = blocks.iter().find(|planned| planned.name == tensor.name);
        let bytes = match (&quantize.method, kind.map(|planned| planned.kind)) {
            (QuantizeMethod::Ggml(_), Some(kind)) if tensor.shape.len() == 2 => {
                kind.bytes_of(elements)
            }
            (QuantizeMethod::Ggml(_), _) => None,
            _ if !is_linear(&tensor.name) => None,
            (QuantizeMethod::Nf4, _) => Some(values + elements / 2),
            // A byte a code.
            _ => Some(values + elements),
        };
        if let Some(bytes) = bytes {
            let read = reading.ledger.take(Part::Weights, values);
            let _held = reading.ledger.take(Part::Weights, bytes);
            reading.ledger.give(read);
        }
    }
    let context = model.config.max_position_embeddings;
    let positions = quantize.window.unwrap_or(0).min(context).max(POSITIONS);
    let scored = positions.min(quantize.heldout_tokens);
    let width = 4 * scored * model.config.hidden_size;
    let first = reading.ledger.take(Part::Activations, width);
    reading.forward(model, scored, 0, Part::Activations);
    let (hidden, vocabulary) = (model.config.hidden_size, model.config.vocab_size);
    // Of one model they are held, of the other they are computed, and copied.
    let logits = loss::logits_bytes(scored, vocabulary);
    let held = reading.ledger.take(Part::LossChunks, logits);
    let copied = reading.ledger.take(Part::LossChunks, logits);
    loss::score(&mut reading.ledger, scored, hidden, vocabulary);
    reading.ledger.give_all([copied, held, first]);
    reading.write(model, as_f32);
}

/// Tensor after tensor; what is verified is loaded before and after.
pub fn export(reading: &mut Reading, export: &Export, model: &ModelShape) {
    reading.process(model);
    if let ExportFormat::Gptq { .. } = export.format {
        // A byte a code, and its share of a group, in the file that is mapped and in the matrices that are checked first.
        let linear = model
            .tensors
            .iter()
            .filter(|tensor| is_linear(&tensor.name));
        let codes: usize = linear.map(TensorShape::elements).sum();
        let codes = codes + OF_A_GROUP * codes / GROUP;
        reading.ledger.fix(Part::Weights, codes);
        let _held = reading.ledger.take(Part::Weights, codes);
    }
    if model.adapter.is_some() && reading.setting.numbers.packs {
        let base = ModelShape {
            adapter: None,
            ..model.clone()
        };
        // All of the base's file and the adapter's is mapped before the first and largest tensor is read, where one is.
        let mapped = match export.format {
            ExportFormat::Peft { .. } => model.mapped_bytes(),
            // That tensor is counted where it is read; values of `f32` are forgotten as they are.
            _ => model.mapped_bytes() - base.largest_stored(),
        };
        reading.ledger.fix(Part::Weights, mapped);
    }
    if let (ExportFormat::Gguf { .. }, true) = (&export.format, reading.setting.numbers.packs) {
        let vocabulary = WRITTEN_TOKEN * model.config.vocab_size;
        reading.ledger.fix(Part::Process, vocabulary);
    }
    match (&export.format, &model.adapter) {
        (ExportFormat::Peft { .. }, Some(lora)) => {
            let values = 4 * model.lora_parameters(lora) as usize;
            // As values and as they are written.
            reading.ledger.pass(Part::Weights, 2 * values);
        }
        (format, _) => reading.write(model, |tensor| match format {
            ExportFormat::Gguf { kind } => kind
                .bytes_of(tensor.elements())
                .unwrap_or_else(|| as_f32(tensor)),
            ExportFormat::Safetensors { dtype }
            | ExportFormat::Peft { dtype }
            | ExportFormat::Gptq { dtype } => WeightDtype::from(*dtype).size() * tensor.elements(),
        }),
    }
    if export.inputs.verify.is_some() {
        // Before and after, side by side.
        let _held = reading.load(model, Part::Weights);
        let _held = reading.load(model, Part::Teacher);
        reading.forward(model, POSITIONS, POSITIONS, Part::Activations);
    }
}

fn layer_of(tensor: &TensorShape) -> Option<usize> {
    tensor.name.split('.').nth(2)?.parse().ok()
}

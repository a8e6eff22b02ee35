//! What each model of a recipe takes where it answers: weights, caches, and how many sequences are worth it together.

use serde::Serialize;

use super::activations::Numbers;
use super::kv_cache::{bytes, decode_batch, decode_batch_of_textbooks, largest_batch};
use super::shape::ModelShape;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Serving {
    pub model: String,
    pub parameters: u64,
    /// In 32, 16, 8 and 4 bits a weight, scales left out.
    pub weight_bytes: [u64; 4],
    /// Tokens that the model sees at most.
    pub context: usize,
    /// Of one token, and of a sequence as long as the context; 4 bytes a number on the CPU, 2 elsewhere.
    pub kv_bytes_a_token: u64,
    pub kv_bytes_a_sequence: u64,
    /// Sequences of the whole context beside the weights as they are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_batch: Option<u64>,
    /// Sequences from which on a step computes longer than it reads weights: (FLOP/s · bytes) ÷ (2 · bytes/s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_batch: Option<f64>,
    /// FLOP/s ÷ (2 · bytes/s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_batch_of_textbooks: Option<f64>,
}

/// A model on a machine with so much memory, whose rates in FLOP/s and bytes/s may be known.
pub fn serving(
    name: &str,
    model: &ModelShape,
    numbers: Numbers,
    memory: Option<u64>,
    rates: Option<(f64, f64)>,
) -> Serving {
    let parameters = model.parameters();
    let context = model.config.max_position_embeddings;
    // In the blocks of its file, or all in the type of trained weights.
    let held = match numbers.packs {
        true => model.frozen_bytes(model.form()),
        false => numbers.weights as u64 * parameters,
    };
    let number = numbers.activations;
    // Of a weight as it is read: in the mean of its blocks, or in the type that is computed with.
    let weight = match numbers.packs {
        true => held as f64 / parameters.max(1) as f64,
        false => number as f64,
    };
    let room = memory.map(|memory| memory.saturating_sub(held));
    Serving {
        model: name.to_string(),
        parameters,
        weight_bytes: [32, 16, 8, 4].map(|bits| parameters * bits / 8),
        context,
        kv_bytes_a_token: bytes(&model.config, 1, 1, number),
        kv_bytes_a_sequence: bytes(&model.config, context, 1, number),
        largest_batch: room.map(|room| largest_batch(&model.config, context, number, room)),
        decode_batch: rates.map(|(flops, bytes)| decode_batch(flops, bytes, weight)),
        decode_batch_of_textbooks: rates
            .map(|(flops, bytes)| decode_batch_of_textbooks(flops, bytes)),
    }
}

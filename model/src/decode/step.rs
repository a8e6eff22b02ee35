//! One new token a row, or a few, through all blocks, as plain slices: no tensor is made, and what is written is
//! written once.
//!
//! A block is five parallel loops with short serial pieces between them: q, k and v; attention; the output projection,
//! added to the residual; gate, up and their activation; the down projection, added to the residual.

use burn::tensor::Device;

use super::attention::attend;
use super::cache::Cache;
use super::products::{gated, multiply, project};
use super::prompts::PromptStates;
use super::weights::{Values, Weights};
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::kv_cache::KvCache;
use crate::ops::host::SharedOutput;
use crate::ops::rms_norm;
use crate::ops::rope::turn_row;
use crate::ops::team::{Team, with_team};

/// A decoder in the middle of sequences.
pub(super) struct FusedStep {
    weights: Weights,
    config: DecoderConfig,
    rope_frequencies: Vec<f32>,
    cache: Cache,
    scratch: Scratch,
}

/// All `[rows · new, …]`.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    /// q, k and v, one behind the other.
    qkv: Vec<f32>,
    attended: Vec<f32>,
    scores: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    activation: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl FusedStep {
    /// `None` when the decoder is not in `f32` on the CPU.
    pub fn new(decoder: &Decoder) -> Option<Self> {
        let config = decoder.config.clone();
        let heads = [config.num_key_value_heads, config.head_dim];
        Some(Self {
            weights: Weights::of(decoder)?,
            rope_frequencies: decoder.rope_frequencies.clone(),
            cache: Cache::new(decoder.blocks.len(), heads),
            config,
            scratch: Scratch::default(),
        })
    }

    /// Goes on behind prompts, too, for some `new` tokens a row.
    pub fn add_rows(&mut self, prompts: &PromptStates, new: usize) {
        self.cache.add_rows(prompts, new);
    }

    pub fn keep_rows(&mut self, kept: &[usize]) {
        self.cache.keep_rows(kept);
    }

    /// Forgets all but the first `length` positions of each row.
    pub fn truncate(&mut self, length: usize) {
        self.cache.truncate(length);
    }

    /// What is cached of a row, as tensors.
    pub fn to_tensors(&self, row: usize, device: &Device) -> KvCache {
        self.cache.to_tensors(row, device)
    }

    /// Adds `ids` `[rows, new]` and writes the `logits` `[rows, wanted, vocabulary]` behind the last of them. Each value
    /// is that of a step of one token, to the bit.
    pub fn advance(&mut self, ids: &[u32], wanted: usize, logits: &mut Vec<f32>) {
        let new = ids.len() / self.cache.rows();
        self.cache.make_room(new);
        self.prepare(ids, new);
        with_team(|team| {
            for layer in 0..self.weights.blocks.len() {
                self.attention(team, layer, new);
                self.mlp(team, layer);
            }
            self.logits(team, [new, wanted], logits);
        });
        self.cache.count_written(new);
    }

    /// Embeds the tokens, finds their angles and the room for all that follows.
    fn prepare(&mut self, ids: &[u32], new: usize) {
        let (config, scratch, tokens) = (&self.config, &mut self.scratch, ids.len());
        let (hidden, queries) = (
            config.hidden_size,
            config.num_attention_heads * config.head_dim,
        );
        let keys = config.num_key_value_heads * config.head_dim;
        let positions = tokens * config.num_attention_heads * (self.cache.longest() + new);
        for (values, count) in [
            (&mut scratch.x, tokens * hidden),
            (&mut scratch.normed, tokens * hidden),
            (&mut scratch.qkv, tokens * (queries + 2 * keys)),
            (&mut scratch.attended, tokens * queries),
            (&mut scratch.scores, positions),
            (&mut scratch.gate, tokens * config.intermediate_size),
            (&mut scratch.up, tokens * config.intermediate_size),
            (&mut scratch.activation, tokens * config.intermediate_size),
        ] {
            values.resize(count, 0.0);
        }
        let embedding = self.weights.embedding.blocks();
        for (&id, x) in ids.iter().zip(scratch.x.chunks_mut(hidden)) {
            embedding.dequantize_rows(id as usize, x);
        }
        scratch.cos.clear();
        scratch.sin.clear();
        for token in 0..tokens {
            let position = (self.cache.length(token / new) + token % new) as f32;
            let angles = self.rope_frequencies.iter().map(|f| position * f);
            scratch.cos.extend(angles.clone().map(f32::cos));
            scratch.sin.extend(angles.map(f32::sin));
        }
    }

    /// x += attention(norm(x)).
    fn attention(&mut self, team: &Team, layer: usize, new: usize) {
        let (block, scratch) = (&self.weights.blocks[layer], &mut self.scratch);
        let (config, epsilon) = (&self.config, self.config.rms_norm_eps);
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let (queries, keys) = (heads * head_dim, config.num_key_value_heads * head_dim);
        norm(&scratch.x, &block.input_norm, epsilon, &mut scratch.normed);
        let width = queries + 2 * keys;
        let parts = [
            (&block.q, 0),
            (&block.k, queries),
            (&block.v, queries + keys),
        ];
        project(
            team,
            &parts,
            &scratch.normed,
            &mut scratch.qkv,
            width,
            false,
        );
        let half = head_dim / 2;
        for (token, qkv) in scratch.qkv.chunks_mut(width).enumerate() {
            let (q, kv) = qkv.split_at_mut(queries);
            let (k, v) = kv.split_at_mut(keys);
            norm_heads(q, &block.q_norm, head_dim, epsilon);
            norm_heads(k, &block.k_norm, head_dim, epsilon);
            let angles = token * half..(token + 1) * half;
            let (cos, sin) = (&scratch.cos[angles.clone()], &scratch.sin[angles]);
            turn_row(q, cos, sin, false);
            turn_row(k, cos, sin, false);
            let row = token / new;
            let at = self.cache.length(row) + token % new;
            self.cache.write(layer, row, at, k, v);
        }
        let (longest, group) = (
            self.cache.longest() + new,
            heads / config.num_key_value_heads,
        );
        let window = config.sliding_windows[layer];
        let scale = 1.0 / (head_dim as f64).sqrt();
        let (cache, qkv) = (&self.cache, &scratch.qkv);
        let out = SharedOutput::new(&mut scratch.attended);
        let scores = SharedOutput::new(&mut scratch.scores);
        team.run(cache.rows() * new * heads, &|task| {
            let (token, head) = (task / heads, task % heads);
            let (row, end) = (token / new, cache.length(token / new) + token % new + 1);
            let first = window.map_or(0, |window| end.saturating_sub(window));
            let q = &qkv[token * width + head * head_dim..][..head_dim];
            // SAFETY: each task has its own scores and its own columns of the output.
            let (scores, out) = unsafe {
                (
                    scores.slice(task * longest, end),
                    out.slice(task * head_dim, head_dim),
                )
            };
            let cached = cache.read(layer, row, head / group, first..end);
            attend(q, cached, scale as f32, scores, out);
        });
        let (parts, hidden) = ([(&block.o, 0)], config.hidden_size);
        project(
            team,
            &parts,
            &scratch.attended,
            &mut scratch.x,
            hidden,
            true,
        );
    }

    /// x += mlp(norm(x)).
    fn mlp(&mut self, team: &Team, layer: usize) {
        let (block, scratch) = (&self.weights.blocks[layer], &mut self.scratch);
        norm(
            &scratch.x,
            &block.mlp_norm,
            self.config.rms_norm_eps,
            &mut scratch.normed,
        );
        let all = [&mut scratch.gate, &mut scratch.up, &mut scratch.activation];
        gated(team, block, &scratch.normed, all.map(Vec::as_mut_slice));
        let (parts, hidden) = ([(&block.down, 0)], self.config.hidden_size);
        project(
            team,
            &parts,
            &scratch.activation,
            &mut scratch.x,
            hidden,
            true,
        );
    }

    /// Behind the last `wanted` of `new` tokens a row.
    fn logits(&mut self, team: &Team, [new, wanted]: [usize; 2], logits: &mut Vec<f32>) {
        let (scratch, hidden) = (&mut self.scratch, self.config.hidden_size);
        let epsilon = self.config.rms_norm_eps;
        let tokens = self.cache.rows() * wanted;
        let normed = &mut scratch.normed[..tokens * hidden];
        let rows = scratch.x.chunks(new * hidden);
        for (x, out) in rows.zip(normed.chunks_mut(wanted * hidden)) {
            norm(
                &x[(new - wanted) * hidden..],
                &self.weights.norm,
                epsilon,
                out,
            );
        }
        let head = self.weights.head();
        logits.resize(tokens * head.rows(), 0.0);
        multiply(team, head, normed, logits);
    }
}

fn norm(x: &[f32], weight: &Values, epsilon: f64, out: &mut [f32]) {
    let weight = weight.slice();
    for (x, out) in x.chunks(weight.len()).zip(out.chunks_mut(weight.len())) {
        rms_norm::forward_row(out, x, weight, epsilon);
    }
}

fn norm_heads(x: &mut [f32], weight: &Option<Values>, head_dim: usize, epsilon: f64) {
    let Some(weight) = weight else { return };
    let mut head = vec![0.0; head_dim];
    for x in x.chunks_mut(head_dim) {
        head.copy_from_slice(x);
        rms_norm::forward_row(x, &head, weight.slice(), epsilon);
    }
}

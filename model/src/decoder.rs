//! The decoder: embedding, blocks, final norm and head; student and teacher alike.

use burn::tensor::{DType, Device, Tensor};

use crate::batch::TokenBatch;
use crate::block::{Block, BlockTape, LinearInput};
use crate::config::DecoderConfig;
use crate::kv_cache::KvCache;
use crate::linear::weight::{Array, Weight};
use crate::operation;
use crate::ops::attention::AttentionPattern;
use crate::ops::rope::{Rotation, frequencies};
use crate::ops::{embedding, rms_norm};
use crate::parameter::Parameter;
use crate::span::Cost;

#[derive(Debug, Clone)]
pub struct Decoder {
    pub config: DecoderConfig,
    pub embed_tokens: Weight,
    pub blocks: Vec<Block>,
    pub norm: Parameter,
    /// `None` when the head is the embedding.
    pub lm_head: Option<Weight>,
    /// The dtype of activations; weights are cast to it where they are used.
    pub compute: DType,
    pub(crate) rope_frequencies: Vec<f32>,
}

/// What the backward pass of a batch needs.
pub struct Tape {
    batch: TokenBatch,
    rotation: Rotation,
    blocks: Vec<KeptBlock>,
    last: Tensor<2>,
}

enum KeptBlock {
    /// Nothing: no gradient is wanted of this block or of those before it.
    Frozen,
    /// Everything that the backward pass reads.
    Whole(Box<BlockTape>),
    /// Only the input: what the block keeps is computed again before its backward pass.
    Input(Box<Tensor<2>>),
}

/// Outputs of chosen layers: 0 is the embedding, i the output of block i (before the final norm).
#[derive(Debug, Clone, Default)]
pub struct LayerStates(pub Vec<(usize, Tensor<2>)>);

impl LayerStates {
    pub fn get(&self, layer: usize) -> Option<&Tensor<2>> {
        self.0.iter().find(|(i, _)| *i == layer).map(|(_, x)| x)
    }

    fn keep(&mut self, wanted: &[usize], layer: usize, x: &Tensor<2>) {
        if wanted.contains(&layer) {
            self.0.push((layer, x.clone()));
        }
    }
}

impl Decoder {
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// The head's matrix `[vocabulary, hidden]`.
    pub fn head(&self) -> &Weight {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    pub fn head_mut(&mut self) -> &mut Weight {
        self.lm_head.as_mut().unwrap_or(&mut self.embed_tokens)
    }

    /// Normalised hidden states `[tokens, hidden]`, ready for the head.
    pub fn hidden(&self, batch: &TokenBatch) -> Tensor<2> {
        self.hidden_and_layers(batch, &[]).0
    }

    /// `hidden`, and the outputs of the `wanted` layers.
    pub fn hidden_and_layers(
        &self,
        batch: &TokenBatch,
        wanted: &[usize],
    ) -> (Tensor<2>, LayerStates) {
        let rotation = self.rotation(&batch.positions);
        let mut layers = LayerStates::default();
        let mut x = self.embed(&batch.ids);
        layers.keep(wanted, 0, &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &rotation, &self.pattern(batch, i), None);
            layers.keep(wanted, i + 1, &x);
        }
        (self.final_norm(&x), layers)
    }

    /// Runs the blocks and shows what their linear layers read: the block's number, which, and `[tokens, in]`.
    pub fn observe(&self, batch: &TokenBatch, see: &mut dyn FnMut(usize, LinearInput, &Tensor<2>)) {
        let rotation = self.rotation(&batch.positions);
        let mut x = self.embed(&batch.ids);
        for (i, block) in self.blocks.iter().enumerate() {
            let pattern = self.pattern(batch, i);
            let observed = block.observe(x, &rotation, &pattern, &mut |input, x| see(i, input, x));
            x = observed.output();
        }
    }

    /// `hidden_and_layers` that records what `backward` needs. With `checkpoint_blocks` only each
    /// block's input is kept and the block runs twice.
    pub fn forward_with_tape(
        &self,
        batch: &TokenBatch,
        checkpoint_blocks: bool,
        wanted: &[usize],
    ) -> (Tensor<2>, LayerStates, Tape) {
        let rotation = self.rotation(&batch.positions);
        let mut layers = LayerStates::default();
        let mut x = self.embed(&batch.ids);
        layers.keep(wanted, 0, &x);
        let mut blocks = Vec::with_capacity(self.blocks.len());
        let first_trained = self.first_trained_block();
        for (i, block) in self.blocks.iter().enumerate() {
            let pattern = self.pattern(batch, i);
            if i < first_trained {
                blocks.push(KeptBlock::Frozen);
                x = block.forward(x, &rotation, &pattern, None);
            } else if checkpoint_blocks {
                blocks.push(KeptBlock::Input(Box::new(x.clone())));
                x = block.forward(x, &rotation, &pattern, None);
            } else {
                let (y, tape) = block.forward_with_tape(x, &rotation, &pattern);
                blocks.push(KeptBlock::Whole(Box::new(tape)));
                x = y;
            }
            layers.keep(wanted, i + 1, &x);
        }
        let hidden = self.final_norm(&x);
        let tape = Tape {
            batch: batch.clone(),
            rotation,
            blocks,
            last: x,
        };
        (hidden, layers, tape)
    }

    /// Gathers the gradients of all parameters but the head's own product from that of the normalised
    /// hidden states and of layer outputs (`LayerStates`' numbering).
    pub fn backward(&mut self, tape: Tape, d_hidden: Tensor<2>, d_layers: &LayerStates) {
        let epsilon = self.config.rms_norm_eps;
        let (mut dx, dw) = rms_norm::backward(&d_hidden, &tape.last, &self.norm.value, epsilon);
        if self.norm.trainable {
            self.norm.accumulate(dw);
        }
        for (i, kept) in tape.blocks.into_iter().enumerate().rev() {
            if let Some(extra) = d_layers.get(i + 1) {
                dx = dx + extra.clone();
            }
            let pattern = self.pattern(&tape.batch, i);
            let block = &mut self.blocks[i];
            let block_tape = match kept {
                KeptBlock::Frozen => return,
                KeptBlock::Whole(block_tape) => *block_tape,
                KeptBlock::Input(x) => block.tape(*x, &tape.rotation, &pattern),
            };
            dx = block.backward(dx, block_tape, &tape.rotation, &pattern);
        }
        if let Some(extra) = d_layers.get(0) {
            dx = dx + extra.clone();
        }
        let embedding = self.embed_tokens.parameter_mut();
        if let Some(embedding) = embedding.filter(|embedding| embedding.trainable) {
            let sum = match embedding.gradient.take() {
                Some(sum) => sum,
                None => embedding.value.zeros_like(),
            };
            embedding.gradient = Some(embedding::accumulate_gradient(sum, &tape.batch.ids, &dx));
        }
    }

    /// The backward pass ends there: 0 where the embedding is trained, beyond the last where no block is.
    fn first_trained_block(&self) -> usize {
        let is_trained = |parameter: &Parameter| parameter.trainable;
        let embedding = self.embed_tokens.parameter();
        if embedding.is_some_and(is_trained) {
            return 0;
        }
        let block = |block: &Block| block.parameters().any(is_trained);
        self.blocks
            .iter()
            .position(block)
            .unwrap_or(self.blocks.len())
    }

    /// Hidden states of `new` tokens a row that follow the cached ones. Rows may start with padding
    /// (`segments` 0 over the whole history of the row, cached tokens included).
    pub fn hidden_cached(
        &self,
        batch: &TokenBatch,
        history: &CachedHistory,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let rotation = self.rotation(&batch.positions);
        let total = cache.length + batch.length;
        let mut x = self.embed(&batch.ids);
        for (i, block) in self.blocks.iter().enumerate() {
            let visible = (0..batch.rows)
                .flat_map(|row| {
                    let padding = history.padding[row];
                    let window = self.config.sliding_windows[i];
                    (cache.length..total).map(move |at| {
                        let start =
                            window.map_or(padding, |w| padding.max((at + 1).saturating_sub(w)));
                        (start.min(at + 1) as u32, at as u32 + 1)
                    })
                })
                .collect();
            let pattern = AttentionPattern {
                query_length: batch.length,
                key_length: total,
                visible,
                ..self.pattern_shape(batch)
            };
            x = block.forward(x, &rotation, &pattern, Some(&mut cache.layers[i]));
        }
        cache.length = total;
        self.final_norm(&x)
    }

    /// Hidden states of a batch whose keys and values are kept in `cache`, which is empty.
    pub(crate) fn hidden_to_cache(&self, batch: &TokenBatch, cache: &mut KvCache) -> Tensor<2> {
        let rotation = self.rotation(&batch.positions);
        let mut x = self.embed(&batch.ids);
        for (i, block) in self.blocks.iter().enumerate() {
            let pattern = self.pattern(batch, i);
            x = block.forward(x, &rotation, &pattern, Some(&mut cache.layers[i]));
        }
        cache.length = batch.length;
        self.final_norm(&x)
    }

    /// Logits `[tokens, vocabulary]` of hidden states, in `f32` or wider.
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        let _span = operation!("logits", Cost::weight_product(hidden, self.head()));
        let logits = self.head().forward(hidden);
        match logits.dtype() {
            DType::F64 => logits,
            _ => logits.cast(DType::F32),
        }
    }

    /// All arrays in checkpoint order, however they are held.
    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        std::iter::once(Array::from(&self.embed_tokens))
            .chain(self.blocks.iter().flat_map(Block::arrays))
            .chain(std::iter::once(Array::from(&self.norm)))
            .chain(self.lm_head.as_ref().map(Array::from))
    }

    /// What can be trained, in checkpoint order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let head = self.lm_head.as_ref().and_then(Weight::parameter);
        (self.embed_tokens.parameter().into_iter())
            .chain(self.blocks.iter().flat_map(Block::parameters))
            .chain(std::iter::once(&self.norm))
            .chain(head)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let head = self.lm_head.as_mut().and_then(Weight::parameter_mut);
        (self.embed_tokens.parameter_mut().into_iter())
            .chain(self.blocks.iter_mut().flat_map(Block::parameters_mut))
            .chain(std::iter::once(&mut self.norm))
            .chain(head)
    }

    pub(crate) fn embed(&self, ids: &[u32]) -> Tensor<2> {
        self.embed_tokens.select_rows(ids).cast(self.compute)
    }

    fn final_norm(&self, x: &Tensor<2>) -> Tensor<2> {
        rms_norm::forward(x, &self.norm.value, self.config.rms_norm_eps)
    }

    pub(crate) fn rotation(&self, positions: &[u32]) -> Rotation {
        Rotation::new(
            &self.rope_frequencies,
            positions,
            &self.device(),
            self.compute,
        )
    }

    pub(crate) fn pattern(&self, batch: &TokenBatch, layer: usize) -> AttentionPattern {
        let window = self.config.sliding_windows[layer];
        AttentionPattern {
            visible: AttentionPattern::visible_in_batch(&batch.segments, batch.length, window),
            ..self.pattern_shape(batch)
        }
    }

    fn pattern_shape(&self, batch: &TokenBatch) -> AttentionPattern {
        AttentionPattern {
            rows: batch.rows,
            query_length: batch.length,
            key_length: batch.length,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            visible: Vec::new(),
        }
    }
}

/// How many cached positions at the start of each row are padding.
#[derive(Debug, Clone)]
pub struct CachedHistory {
    pub padding: Vec<usize>,
}

pub(crate) fn rope_frequencies(config: &DecoderConfig) -> Vec<f32> {
    frequencies(&config.rope, config.head_dim)
}

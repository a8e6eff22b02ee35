//! A decoder block: x + attention(norm(x)), then x + mlp(norm(x)).

use burn::tensor::Tensor;

use crate::attention::{Attention, AttentionTape};
use crate::kv_cache::LayerCache;
use crate::linear::Linear;
use crate::linear::weight::Array;
use crate::mlp::{Mlp, MlpTape};
use crate::ops::attention::AttentionPattern;
use crate::ops::rope::Rotation;
use crate::ops::{residual, rms_norm};
use crate::parameter::Parameter;

#[derive(Debug, Clone)]
pub struct Block {
    pub input_layernorm: Parameter,
    pub self_attn: Attention,
    pub post_attention_layernorm: Parameter,
    pub mlp: Mlp,
    pub epsilon: f64,
}

/// What the backward pass needs of one block. The normalised inputs are computed again: they cost one
/// pass over memory, keeping them would cost a fifth of the tape.
pub struct BlockTape {
    x: Tensor<2>,
    attention: AttentionTape,
    middle: Tensor<2>,
    mlp: MlpTape,
}

impl Block {
    /// `x` `[tokens, hidden]` → `[tokens, hidden]`.
    pub fn forward(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let x = self.attend(x, rotation, pattern, cache);
        let normed = self.norm(&self.post_attention_layernorm, &x);
        residual::add(&x, self.mlp.forward(&normed))
    }

    /// Shows what each of the linear layers reads, `[tokens, in]`. All but the last product of `forward`, which is left
    /// to [`ObservedBlock::output`].
    pub fn observe(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
        see: &mut dyn FnMut(LinearInput, &Tensor<2>),
    ) -> ObservedBlock<'_> {
        let normed = self.norm(&self.input_layernorm, &x);
        see(LinearInput::QueryKeyValue, &normed);
        let heads = self.self_attn.heads(&normed, rotation, pattern, None);
        see(LinearInput::Output, &heads);
        let middle = residual::add(&x, self.self_attn.o_proj.forward(&heads));
        let normed = self.norm(&self.post_attention_layernorm, &middle);
        see(LinearInput::GateUp, &normed);
        let activation = self.mlp.activation(&normed);
        see(LinearInput::Down, &activation);
        ObservedBlock {
            block: self,
            middle,
            activation,
        }
    }

    /// The first half: x + attention(norm(x)).
    fn attend(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let normed = self.norm(&self.input_layernorm, &x);
        residual::add(
            &x,
            self.self_attn.forward(&normed, rotation, pattern, cache),
        )
    }

    /// The forward pass that keeps what `backward` needs.
    pub fn forward_with_tape(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
    ) -> (Tensor<2>, BlockTape) {
        let (attention, middle) = self.first_half(&x, rotation, pattern);
        let normed = self.norm(&self.post_attention_layernorm, &middle);
        let (y, mlp) = self.mlp.forward_with_tape(&normed);
        let out = residual::add(&middle, y);
        let tape = BlockTape {
            x,
            attention,
            middle,
            mlp,
        };
        (out, tape)
    }

    /// The tape alone, for a block whose output is known already.
    pub fn tape(&self, x: Tensor<2>, rotation: &Rotation, pattern: &AttentionPattern) -> BlockTape {
        let (attention, middle) = self.first_half(&x, rotation, pattern);
        let normed = self.norm(&self.post_attention_layernorm, &middle);
        BlockTape {
            x,
            attention,
            mlp: self.mlp.tape(&normed),
            middle,
        }
    }

    fn first_half(
        &self,
        x: &Tensor<2>,
        rotation: &Rotation,
        pattern: &AttentionPattern,
    ) -> (AttentionTape, Tensor<2>) {
        let normed = self.norm(&self.input_layernorm, x);
        let (y, attention) = self.self_attn.forward_with_tape(&normed, rotation, pattern);
        (attention, residual::add(x, y))
    }

    /// Gathers the parameters' gradients, returns that of the block's input.
    pub fn backward(
        &mut self,
        dy: Tensor<2>,
        tape: BlockTape,
        rotation: &Rotation,
        pattern: &AttentionPattern,
    ) -> Tensor<2> {
        let normed = self.norm(&self.post_attention_layernorm, &tape.middle);
        let d_normed = self.mlp.backward(&dy, &normed, tape.mlp);
        let dx = self.norm_backward(d_normed, &tape.middle, Norm::PostAttention);
        let dy = residual::add(&dy, dx);
        let normed = self.norm(&self.input_layernorm, &tape.x);
        let d_normed = self
            .self_attn
            .backward(&dy, &normed, tape.attention, rotation, pattern);
        residual::add(&dy, self.norm_backward(d_normed, &tape.x, Norm::Input))
    }

    /// All arrays in checkpoint order.
    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        std::iter::once(Array::from(&self.input_layernorm))
            .chain(self.self_attn.arrays())
            .chain(std::iter::once(Array::from(&self.post_attention_layernorm)))
            .chain(self.mlp.arrays())
    }

    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        std::iter::once(&mut self.input_layernorm.name)
            .chain(self.self_attn.names_mut())
            .chain(std::iter::once(&mut self.post_attention_layernorm.name))
            .chain(self.mlp.names_mut())
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.input_layernorm)
            .chain(self.self_attn.parameters())
            .chain(std::iter::once(&self.post_attention_layernorm))
            .chain(self.mlp.parameters())
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        std::iter::once(&mut self.input_layernorm)
            .chain(self.self_attn.parameters_mut())
            .chain(std::iter::once(&mut self.post_attention_layernorm))
            .chain(self.mlp.parameters_mut())
    }

    fn norm(&self, weight: &Parameter, x: &Tensor<2>) -> Tensor<2> {
        rms_norm::forward(x, &weight.value, self.epsilon)
    }

    fn norm_backward(&mut self, dy: Tensor<2>, x: &Tensor<2>, which: Norm) -> Tensor<2> {
        let weight = match which {
            Norm::Input => &mut self.input_layernorm,
            Norm::PostAttention => &mut self.post_attention_layernorm,
        };
        let (dx, dw) = rms_norm::backward(&dy, x, &weight.value, self.epsilon);
        if weight.trainable {
            weight.accumulate(dw);
        }
        dx
    }
}

/// The four arrays that a block's linear layers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearInput {
    QueryKeyValue,
    Output,
    GateUp,
    Down,
}

impl LinearInput {
    /// In the order of the forward pass.
    pub const ALL: [Self; 4] = [Self::QueryKeyValue, Self::Output, Self::GateUp, Self::Down];

    /// The layers that read it.
    pub fn readers(self, block: &Block) -> Vec<&Linear> {
        let (attention, mlp) = (&block.self_attn, &block.mlp);
        match self {
            Self::QueryKeyValue => vec![&attention.q_proj, &attention.k_proj, &attention.v_proj],
            Self::Output => vec![&attention.o_proj],
            Self::GateUp => vec![&mlp.gate_proj, &mlp.up_proj],
            Self::Down => vec![&mlp.down_proj],
        }
    }

    pub fn readers_mut(self, block: &mut Block) -> Vec<&mut Linear> {
        let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
        match self {
            Self::QueryKeyValue => vec![
                &mut attention.q_proj,
                &mut attention.k_proj,
                &mut attention.v_proj,
            ],
            Self::Output => vec![&mut attention.o_proj],
            Self::GateUp => vec![&mut mlp.gate_proj, &mut mlp.up_proj],
            Self::Down => vec![&mut mlp.down_proj],
        }
    }
}

/// A block before its last product.
pub struct ObservedBlock<'a> {
    block: &'a Block,
    middle: Tensor<2>,
    activation: Tensor<2>,
}

impl ObservedBlock<'_> {
    /// What the block's forward pass gives.
    pub fn output(self) -> Tensor<2> {
        let y = self.block.mlp.down_proj.forward(&self.activation);
        residual::add(&self.middle, y)
    }
}

enum Norm {
    Input,
    PostAttention,
}

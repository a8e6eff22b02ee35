//! A decoder's arrays as slices, for the fused step.

use burn::tensor::{DType, Tensor};

use crate::attention::Attention;
use crate::block::Block;
use crate::decoder::Decoder;
use crate::linear::lora::Lora;
use crate::linear::{Linear, Packed, Weight};
use crate::mlp::Mlp;
use crate::ops::block_matrix::BlockMatrix;
use crate::ops::host::{HostTensor, SharedOutput};
use crate::ops::row_product::{Destination, product};
use crate::parameter::Parameter;

/// Shares the decoder's arrays; nothing is copied.
pub(super) struct Weights {
    pub embedding: Matrix,
    pub blocks: Vec<BlockWeights>,
    pub norm: Values,
    /// `None` when the head is the embedding.
    pub head: Option<Matrix>,
}

pub(super) struct BlockWeights {
    pub input_norm: Values,
    pub q: Projection,
    pub k: Projection,
    pub v: Projection,
    pub q_norm: Option<Values>,
    pub k_norm: Option<Values>,
    pub o: Projection,
    pub mlp_norm: Values,
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
}

pub(super) struct Projection {
    pub matrix: Matrix,
    pub bias: Option<Values>,
    pub adapter: Option<LowRank>,
}

/// An adapter: s·(x·Aᵀ)·Bᵀ.
pub(super) struct LowRank {
    a: Values,
    b: Values,
    rank: usize,
    scale: f32,
}

pub(super) enum Matrix {
    Packed(Packed),
    Dense(Values, usize),
}

pub(super) struct Values(HostTensor);

impl Weights {
    /// `None` when the decoder is not in `f32` on the CPU, or is held in other blocks than GGUF's.
    pub fn of(decoder: &Decoder) -> Option<Self> {
        if decoder.compute != DType::F32 {
            return None;
        }
        Some(Self {
            embedding: Matrix::of(&decoder.embed_tokens)?,
            blocks: decoder
                .blocks
                .iter()
                .map(BlockWeights::of)
                .collect::<Option<_>>()?,
            norm: Values::of(&decoder.norm.value)?,
            head: match &decoder.lm_head {
                Some(head) => Some(Matrix::of(head)?),
                None => None,
            },
        })
    }

    pub fn head(&self) -> BlockMatrix<'_> {
        self.head.as_ref().unwrap_or(&self.embedding).blocks()
    }
}

impl BlockWeights {
    // Fields are listed whole: a part that this step does not know must not be left out unnoticed.
    fn of(block: &Block) -> Option<Self> {
        let Block {
            input_layernorm,
            self_attn,
            post_attention_layernorm,
            mlp,
            epsilon: _,
        } = block;
        let Attention {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            q_norm,
            k_norm,
            epsilon: _,
        } = self_attn;
        let Mlp {
            gate_proj,
            up_proj,
            down_proj,
        } = mlp;
        Some(Self {
            input_norm: Values::of(&input_layernorm.value)?,
            q: Projection::of(q_proj)?,
            k: Projection::of(k_proj)?,
            v: Projection::of(v_proj)?,
            q_norm: Values::of_optional(q_norm)?,
            k_norm: Values::of_optional(k_norm)?,
            o: Projection::of(o_proj)?,
            mlp_norm: Values::of(&post_attention_layernorm.value)?,
            gate: Projection::of(gate_proj)?,
            up: Projection::of(up_proj)?,
            down: Projection::of(down_proj)?,
        })
    }
}

impl Projection {
    /// `None` also for a layer that rounds its inputs.
    fn of(linear: &Linear) -> Option<Self> {
        if linear.activations.is_some() {
            return None;
        }
        Some(Self {
            matrix: Matrix::of(&linear.weight)?,
            bias: Values::of_optional(&linear.bias)?,
            adapter: match linear.adapter() {
                Some(lora) => Some(LowRank::of(lora)?),
                None => None,
            },
        })
    }
}

impl LowRank {
    fn of(lora: &Lora) -> Option<Self> {
        Some(Self {
            a: Values::of(&lora.a.value)?,
            b: Values::of(&lora.b.value)?,
            rank: lora.rank(),
            scale: lora.scale as f32,
        })
    }

    /// s·x·Aᵀ for `x` `[rows, columns]`: `[rows, rank]`.
    pub fn narrow(&self, x: &[f32]) -> Vec<f32> {
        let a = BlockMatrix::dense(self.a.slice().len() / self.rank, self.a.slice());
        let mut narrow = vec![0.0; x.len() / a.columns() * self.rank];
        let destination = Destination {
            out: SharedOutput::new(&mut narrow),
            stride: self.rank,
            bias: None,
            add: false,
        };
        // SAFETY: nobody else knows the output.
        unsafe { product(a, 0..self.rank, x, destination) };
        narrow.iter_mut().for_each(|value| *value *= self.scale);
        narrow
    }

    /// B, `[out, rank]`.
    pub fn wide(&self) -> BlockMatrix<'_> {
        BlockMatrix::dense(self.rank, self.b.slice())
    }
}

impl Matrix {
    fn of(weight: &Weight) -> Option<Self> {
        match weight {
            Weight::Dense(parameter) => {
                let columns = parameter.value.dims()[1];
                Some(Self::Dense(Values::of(&parameter.value)?, columns))
            }
            Weight::Packed(packed) => {
                packed.blocks()?;
                Some(Self::Packed(packed.clone()))
            }
            Weight::FakeQuant(fake) => Self::of(fake.rounded()),
        }
    }

    pub fn blocks(&self) -> BlockMatrix<'_> {
        match self {
            Self::Packed(packed) => packed.blocks().expect("checked by `of`"),
            Self::Dense(values, columns) => BlockMatrix::dense(*columns, values.slice()),
        }
    }
}

impl Values {
    fn of(tensor: &Tensor<2>) -> Option<Self> {
        let host = HostTensor::of(tensor)?;
        (tensor.dtype() == DType::F32).then_some(Self(host))
    }

    /// The outer `None` is that of `of`.
    fn of_optional(parameter: &Option<Parameter>) -> Option<Option<Self>> {
        match parameter {
            Some(parameter) => Self::of(&parameter.value).map(Some),
            None => Some(None),
        }
    }

    pub fn slice(&self) -> &[f32] {
        self.0.slice()
    }
}

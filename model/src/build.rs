//! From arrays to a decoder: the same walk serves a checkpoint and a fresh random model.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::attention::Attention;
use crate::block::Block;
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, rope_frequencies};
use crate::linear::weight::Weight;
use crate::linear::{Linear, Packed};
use crate::mlp::Mlp;
use crate::parameter::Parameter;

/// Where a decoder's arrays live and what they are computed in.
#[derive(Debug, Clone)]
pub struct Placement {
    pub device: Device,
    /// The dtype in which weights are held: `f32` for training, narrower for a teacher on a GPU.
    pub weights: DType,
    /// The dtype of activations.
    pub compute: DType,
}

impl Placement {
    /// `f32` throughout, on the CPU.
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            weights: DType::F32,
            compute: DType::F32,
        }
    }

    /// `f32` throughout, on a Vulkan device out of [`vulkan_devices`].
    #[cfg(feature = "vulkan")]
    pub fn vulkan(device: Device) -> Self {
        Self {
            device,
            weights: DType::F32,
            compute: DType::F32,
        }
    }

    /// Weights in `f32` and activations in `bf16`, on a CUDA device by its number. Ends the process where there is no
    /// driver: look for it first.
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize) -> Self {
        Self {
            device: Device::cuda(index),
            weights: DType::F32,
            compute: DType::BF16,
        }
    }
}

/// The Vulkan devices of this machine, cards of their own first; a software renderer counts as one, the last.
#[cfg(feature = "vulkan")]
pub fn vulkan_devices() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Vulkan).to_vec()
}

/// An array as it was found.
pub enum Found {
    /// Row after row.
    Values(Vec<f32>),
    /// A matrix in quantised blocks.
    Packed(Packed),
}

/// Builds a decoder from `array(name, shape)`, asked in checkpoint order for every array that the
/// configuration has. Only matrices may be packed.
///
/// # Errors
/// Whatever `array` fails with.
pub fn build<E>(
    config: &DecoderConfig,
    placement: &Placement,
    mut array: impl FnMut(&str, &[usize]) -> Result<Found, E>,
) -> Result<Decoder, E> {
    let mut arrays = Arrays {
        placement,
        array: &mut array,
    };
    let hidden = config.hidden_size;
    let vocabulary = [config.vocab_size, hidden];
    let embed_tokens = arrays.weight("model.embed_tokens.weight".into(), vocabulary)?;
    let blocks = (0..config.num_hidden_layers)
        .map(|layer| arrays.block(config, layer))
        .collect::<Result<_, E>>()?;
    let norm = arrays.parameter("model.norm.weight".into(), &[hidden])?;
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(arrays.weight("lm_head.weight".into(), vocabulary)?),
    };
    Ok(Decoder {
        config: config.clone(),
        embed_tokens,
        blocks,
        norm,
        lm_head,
        compute: placement.compute,
        rope_frequencies: rope_frequencies(config),
    })
}

struct Arrays<'a, F> {
    placement: &'a Placement,
    array: &'a mut F,
}

impl<E, F: FnMut(&str, &[usize]) -> Result<Found, E>> Arrays<'_, F> {
    fn parameter(&mut self, name: String, shape: &[usize]) -> Result<Parameter, E> {
        let values = match (self.array)(&name, shape)? {
            Found::Values(values) => values,
            Found::Packed(packed) => packed.values(),
        };
        Ok(self.dense(name, shape, values))
    }

    fn weight(&mut self, name: String, shape: [usize; 2]) -> Result<Weight, E> {
        Ok(match (self.array)(&name, &shape)? {
            Found::Values(values) => Weight::Dense(self.dense(name, &shape, values)),
            Found::Packed(packed) => Weight::Packed(packed),
        })
    }

    fn dense(&self, name: String, shape: &[usize], values: Vec<f32>) -> Parameter {
        let matrix = match *shape {
            [rows, columns] => [rows, columns],
            _ => [1, shape.iter().product()],
        };
        let device = &self.placement.device;
        let value = Tensor::<2>::from_data(TensorData::new(values, matrix), (device, DType::F32));
        Parameter::new(name, shape.to_vec(), value.cast(self.placement.weights))
    }

    fn linear(&mut self, name: &str, output: usize, input: usize, bias: bool) -> Result<Linear, E> {
        let weight = self.weight(format!("{name}.weight"), [output, input])?;
        let bias = match bias {
            true => Some(self.parameter(format!("{name}.bias"), &[output])?),
            false => None,
        };
        Ok(Linear::new(weight, bias))
    }

    fn block(&mut self, config: &DecoderConfig, layer: usize) -> Result<Block, E> {
        let at = format!("model.layers.{layer}");
        let (hidden, width) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let input_layernorm = self.parameter(format!("{at}.input_layernorm.weight"), &[hidden])?;
        let (qkv_bias, output_bias) = (config.qkv_bias, config.output_bias);
        let attn = format!("{at}.self_attn");
        let q_proj = self.linear(&format!("{attn}.q_proj"), queries, hidden, qkv_bias)?;
        let k_proj = self.linear(&format!("{attn}.k_proj"), keys, hidden, qkv_bias)?;
        let v_proj = self.linear(&format!("{attn}.v_proj"), keys, hidden, qkv_bias)?;
        let o_proj = self.linear(&format!("{attn}.o_proj"), hidden, queries, output_bias)?;
        let (mut q_norm, mut k_norm) = (None, None);
        if config.qk_norm {
            let shape = [config.head_dim];
            q_norm = Some(self.parameter(format!("{attn}.q_norm.weight"), &shape)?);
            k_norm = Some(self.parameter(format!("{attn}.k_norm.weight"), &shape)?);
        }
        let name = format!("{at}.post_attention_layernorm.weight");
        let post_attention_layernorm = self.parameter(name, &[hidden])?;
        let mlp = Mlp {
            gate_proj: self.linear(
                &format!("{at}.mlp.gate_proj"),
                width,
                hidden,
                config.mlp_bias,
            )?,
            up_proj: self.linear(&format!("{at}.mlp.up_proj"), width, hidden, config.mlp_bias)?,
            down_proj: self.linear(
                &format!("{at}.mlp.down_proj"),
                hidden,
                width,
                config.mlp_bias,
            )?,
        };
        Ok(Block {
            input_layernorm,
            self_attn: Attention {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                q_norm,
                k_norm,
                epsilon: config.rms_norm_eps,
            },
            post_attention_layernorm,
            mlp,
            epsilon: config.rms_norm_eps,
        })
    }
}

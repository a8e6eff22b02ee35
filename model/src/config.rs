//! What a decoder looks like: every number that its forward pass needs, under Hugging Face's names.

use serde::{Deserialize, Serialize};

/// The decoder families that share this forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// Rotary position embedding: base and how the frequencies are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// Frequency scaling, as `rope_scaling` / `rope_parameters` of a Hugging Face config names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

/// A decoder-only transformer of the Llama family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope: RopeConfig,
    pub max_position_embeddings: usize,
    /// The output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Biases on the q, k and v projections (Qwen2).
    pub qkv_bias: bool,
    /// Bias on the output projection of attention (Llama with `attention_bias`).
    pub output_bias: bool,
    /// Biases on the three MLP projections (Llama with `mlp_bias`).
    pub mlp_bias: bool,
    /// RMS norm over each head of q and k before RoPE (Qwen3).
    pub qk_norm: bool,
    /// Per layer: how many positions back a query sees, itself included; `None` sees all.
    pub sliding_windows: Vec<Option<usize>>,
    pub bos_token_id: Option<u32>,
    /// Any of these ends generation.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

//! The decoder and all that touches its tensors.

pub mod adapters;
pub mod attention;
pub mod batch;
pub mod block;
pub mod build;
pub mod config;
pub mod decode;
pub mod decoder;
pub mod fake_quantization;
pub mod generate;
pub mod kv_cache;
pub mod linear;
pub mod load;
pub mod mlp;
pub mod ops;
pub mod parameter;
pub mod quant;
pub mod random;
pub mod score;
pub mod span;
pub mod surgery;
pub mod weights;

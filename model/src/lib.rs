//! The decoder and all that touches its tensors.

pub mod config;
pub mod quant;
pub mod weights;

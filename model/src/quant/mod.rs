//! Quantised storage formats, as plain slices, and the methods that bring a decoder's linear layers into them.

pub mod awq;
pub mod block_type;
pub mod blocks;
pub mod calibration;
mod cholesky;
pub mod extremes;
pub(crate) mod format;
pub mod gptq;
pub mod integer;
pub(crate) mod k_quants;
pub mod layers;
pub(crate) mod legacy_quants;
pub mod nf4;
pub mod quantise;
mod quantise_k;
mod quantise_legacy;

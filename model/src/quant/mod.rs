//! Quantised storage formats, as plain slices: no tensor library.

pub mod block_type;
pub mod blocks;
pub(crate) mod format;
pub mod integer;
pub(crate) mod k_quants;
pub(crate) mod legacy_quants;
pub mod nf4;
pub mod quantise;
mod quantise_k;
mod quantise_legacy;

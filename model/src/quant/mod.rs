//! Quantised storage formats, as plain slices: no tensor library.

pub mod block_type;
pub mod blocks;
mod k_quants;
mod legacy_quants;
pub mod nf4;

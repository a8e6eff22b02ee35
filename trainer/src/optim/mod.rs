//! From gradients to new weights.

pub mod adamw;
pub mod clip;
pub mod config;
#[cfg(feature = "cube")]
pub mod cube;
pub mod schedule;
pub mod verdict;

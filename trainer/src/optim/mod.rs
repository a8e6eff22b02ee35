//! From gradients to new weights.

pub mod adamw;
pub mod clip;
pub mod config;
pub mod schedule;

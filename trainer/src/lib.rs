//! The trainer: losses, optimizer, the step, the run and its checkpoints.

pub mod adapter;
pub mod checkpoint;
pub mod config;
mod exact;
pub mod heldout;
pub mod invalid;
pub mod loss;
pub mod metrics;
pub mod objective;
pub mod on_policy;
pub mod optim;
pub mod quantization_aware;
pub mod run;
pub mod step;
pub mod tensorboard;

//! The trainer: losses, optimizer, the step, the run and its checkpoints.

pub mod loss;
pub mod optim;

//! Data that a teacher writes.

pub mod asker;
pub mod educational_value;
pub mod exercises;
pub mod generate;
pub mod in_order;
pub mod local_queue;
pub mod prompt;
pub mod record;

//! Data that a teacher writes.

pub mod asker;
pub mod generate;
pub mod in_order;
mod json_in_text;
pub mod judge;
pub mod local_queue;
pub mod pairs;
pub mod prompt;
pub mod rate;
mod rating_text;
pub mod record;
pub mod verdict;

//! Data that a teacher writes.

pub mod asker;
pub mod educational_value;
pub mod elimination;
pub mod evol_instruct;
pub mod exercises;
pub mod generate;
pub mod in_order;
pub mod instruction;
pub mod instruction_pool;
mod json_in_text;
pub mod judge;
pub mod local_queue;
mod numbered_list;
pub mod pairs;
mod patterns;
pub mod prompt;
pub mod rate;
mod rating_text;
pub mod record;
pub mod self_instruct;
mod spoken;
pub mod verdict;

//! Data that a teacher writes.

pub mod asker;
pub mod elimination;
pub mod evol_instruct;
pub mod generate;
pub mod in_order;
pub mod instruction;
pub mod instruction_pool;
pub mod local_queue;
mod numbered_list;
pub mod prompt;
pub mod record;
pub mod self_instruct;

//! The optimizer on a device: norm, clipping and update without the host knowing a number of it.

pub mod adamw;
pub mod norm;
pub mod verdict;

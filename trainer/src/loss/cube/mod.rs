//! The losses on a device, with the values left there: what [`super::row`] and [`super::hidden`] compute, a workgroup a row.

mod column;
pub mod hidden;
mod plan;
mod row;
pub mod rows;
mod sums;

//! Teachers: where soft targets come from.

pub mod signal;
pub mod teacher;

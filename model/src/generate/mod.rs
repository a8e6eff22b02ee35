//! Generation over token ids; text, templates and stop strings belong to the local teacher.

pub mod engine;
pub mod sampling;
pub mod sequence;
pub mod speculative;

//! Re-exported so that the checks of the recipe and of the trainer speak one language.

pub use trainer::invalid::{Invalid, require};

//! Evaluations of models.

pub mod perplexity;

pub use perplexity::{Perplexity, PerplexityConfig, PerplexityError};

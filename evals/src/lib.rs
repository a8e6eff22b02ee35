//! Evaluations of models.

pub mod classification;
pub mod logit_comparison;
pub mod model_comparison;
pub mod perplexity;
pub mod sandbox;

pub use perplexity::{Perplexity, PerplexityConfig, PerplexityError};

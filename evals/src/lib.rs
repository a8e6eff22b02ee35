//! Evaluations of models.

pub mod classification;
pub mod human_eval;
pub mod logit_comparison;
pub mod model_comparison;
pub mod pass_at_k;
pub mod perplexity;
pub mod sandbox;

pub use perplexity::{Perplexity, PerplexityConfig, PerplexityError};

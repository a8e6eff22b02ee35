//! Evaluations of models.

pub mod acceptance;
pub mod classification;
pub mod logit_comparison;
pub mod model_comparison;
pub mod perplexity;

pub use acceptance::{AcceptanceConfig, AcceptanceScore};
pub use perplexity::{Perplexity, PerplexityConfig, PerplexityError};

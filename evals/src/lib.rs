//! Evaluations of models.

pub mod acceptance;
pub mod accuracy;
pub mod classification;
pub mod comparison;
pub mod human_eval;
pub mod likelihood;
pub mod logit_comparison;
pub mod model_comparison;
pub mod multiple_choice;
pub mod pass_at_k;
pub mod perplexity;
mod row;
pub mod sample_records;
pub mod sandbox;
pub mod subject;
pub mod text_size;
pub mod written_answers;

pub use acceptance::{AcceptanceConfig, AcceptanceScore};
pub use perplexity::{Perplexity, PerplexityConfig, PerplexityError};

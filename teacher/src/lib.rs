//! Teachers: who gives the signal that a student learns from, and who writes text.

pub mod alignment;
pub mod cross_tokenizer;
pub mod embedding;
pub mod error;
pub mod generation;
pub mod given_tokens;
pub mod local;
pub mod remote;
pub mod remote_scorer;
pub mod shards;
pub mod signal;
pub mod sparse_targets;
pub mod synth;
pub mod teacher;
#[cfg(test)]
mod test_tokenizer;
pub mod text_stream;
pub mod tokenizer;
pub mod vocabulary;
pub mod writer;

pub use error::TeacherError;
pub use generation::{Completion, FinishReason, GenerationRequest, Prompt};
pub use local::LocalTeacher;
pub use shards::{ShardError, SoftTargets};
pub use signal::Signal;
pub use sparse_targets::SparseTargets;
pub use teacher::{Teacher, Vocabulary};
pub use writer::{Writer, Written};

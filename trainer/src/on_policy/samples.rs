//! `samples.jsonl`: a line for each sequence that the student wrote.

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WrittenSample {
    /// Counted from 1, as in `metrics.jsonl`.
    pub step: u64,
    /// With its special tokens, as the student read it.
    pub prompt: String,
    /// Without special tokens.
    pub text: String,
    pub tokens: usize,
    pub finish_reason: Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The student drew an end-of-sequence token.
    EndOfSequence,
    /// `max_new_tokens`, or the row was full.
    Length,
}

/// What a step of `metrics.jsonl` says of the student's sequences.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnPolicyRecord {
    /// λ at this step.
    pub share: f64,
    /// Sequences of the batch, those of the data included.
    pub sequences: usize,
    /// Written in this step.
    pub generated: usize,
    /// From the buffer.
    pub replayed: usize,
    pub generated_tokens: usize,
    /// The share of the generated that ended by itself; `None` where none was generated.
    pub finished: Option<f64>,
    /// Tokens of a generated sequence in the mean.
    pub mean_length: Option<f64>,
    pub generate_seconds: f64,
    /// What the teacher took.
    pub score_seconds: f64,
    /// All the rest of the step.
    pub train_seconds: f64,
}

//! What is asked of a teacher that writes, and what it answers.

use datasets::sample::Message;
use model::generate::sampling::SamplingConfig;
use serde::{Deserialize, Serialize};

use crate::error::TeacherError;

/// What a model goes on from.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// The text as it is, behind the tokens that the tokenizer opens a text with.
    Text(String),
    /// Put into the model's chat template; the assistant's turn is next.
    Conversation(Vec<Message>),
}

/// How to write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationRequest {
    pub sampling: SamplingConfig,
    /// Fewer where the model's context ends.
    pub max_new_tokens: usize,
    /// Any of these ends the text and is no part of it.
    pub stop: Vec<String>,
    /// Together with the number of the prompt and of the token it decides every draw.
    pub seed: u64,
}

impl Default for GenerationRequest {
    fn default() -> Self {
        Self {
            sampling: SamplingConfig::default(),
            max_new_tokens: 256,
            stop: Vec::new(),
            seed: 0,
        }
    }
}

impl GenerationRequest {
    /// # Errors
    /// [`TeacherError::Sampling`] with the setting that is out of its range, [`TeacherError::EmptyStop`].
    pub fn validate(&self) -> Result<(), TeacherError> {
        self.sampling.validate().map_err(TeacherError::Sampling)?;
        match self.stop.iter().any(String::is_empty) {
            true => Err(TeacherError::EmptyStop),
            false => Ok(()),
        }
    }
}

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Without special tokens and without the stop string.
    pub text: String,
    /// Every token that was drawn, the end-of-sequence token and those of the stop string included.
    pub ids: Vec<u32>,
    pub finish_reason: FinishReason,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model drew an end-of-sequence token.
    EndOfSequence,
    /// A stop string came.
    Stop,
    /// `max_new_tokens` or the model's context.
    Length,
}

//! One training sample, before any tokenizer or template has seen it.

use serde::{Deserialize, Serialize};

/// What one row of the data says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// Plain text: every token is a target.
    Text(String),
    /// The completion is learned, the prompt is only read.
    Completion { prompt: String, completion: String },
    /// Assistant turns are learned, all other turns are only read.
    Conversation(Vec<Message>),
}

impl Sample {
    /// Bytes of its texts.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Completion { prompt, completion } => prompt.len() + completion.len(),
            Self::Conversation(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
        }
    }
}

/// One turn of a conversation. `role` is what chat templates expect: `system`, `user`, `assistant`, `tool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

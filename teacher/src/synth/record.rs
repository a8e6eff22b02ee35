//! What a stage that writes data leaves: a line a conversation, with where it comes from.

use datasets::sample::Message;
use serde::{Deserialize, Serialize};

use super::spoken::without_thoughts;
use crate::remote::answer::TokenLogprob;
use crate::remote::request::Sampling;

/// A conversation that a later stage learns from. Readers of data take `messages` and leave the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub messages: Vec<Message>,
    pub lineage: Lineage,
    /// Of the last answer, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

impl Record {
    /// What the teacher said last, without its thoughts.
    pub fn answer(&self) -> &str {
        let last = self.messages.last().map_or("", |message| &message.content);
        without_thoughts(last)
    }

    /// Whether any of its answers ends at `max_tokens`.
    pub fn is_cut(&self) -> bool {
        self.lineage.finish_reason == "length"
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Number of the seed in its data, from 0, and SHA-256 of what it says.
    pub seed: usize,
    pub seed_digest: String,
    /// The candidate's number, from 0.
    pub candidate: u32,
    /// As the server knows it; for a model on this machine the digest of its contents.
    pub model: String,
    /// SHA-256 of the prompts' files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub parameters: Sampling,
    /// What the answers are kept under, in the order of the turns.
    pub requests: Vec<String>,
    /// Of the last answer; `length` if any answer ends at `max_tokens`.
    pub finish_reason: String,
}

/// Who has judged an answer, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// As in [`Lineage`].
    pub model: String,
    /// SHA-256 of the prompt's file.
    pub prompt: String,
    pub parameters: Sampling,
    /// What the answers are kept under.
    pub requests: Vec<String>,
}

//! The turns of a conversation as files have them.

use serde::Deserialize;

use crate::layout::DropReason;
use crate::sample::Message;

/// What a role may be, for messages.
pub const ROLES: &str = "system, user, assistant or tool (or ShareGPT's human, gpt, observation)";

/// `{role, content}`, or ShareGPT's `{from, value}`; either part may be null.
#[derive(Deserialize)]
pub struct Turn {
    #[serde(alias = "from")]
    pub role: Option<String>,
    #[serde(alias = "value")]
    pub content: Option<String>,
}

/// The conversation that turns make, or why it is none: a turn that lacks a part, as calls of tools do, changes what the
/// others answer to.
///
/// # Errors
/// A role that is none.
pub fn conversation(turns: Vec<Turn>) -> Result<Result<Vec<Message>, DropReason>, String> {
    let mut messages = Vec::with_capacity(turns.len());
    for turn in turns {
        let (Some(role), Some(content)) = (turn.role, turn.content) else {
            return Ok(Err(DropReason::Null));
        };
        let Some(role) = standard_role(&role) else {
            return Err(role);
        };
        messages.push(Message::new(role, content));
    }
    Ok(match messages.is_empty() {
        true => Err(DropReason::EmptyConversation),
        false => Ok(messages),
    })
}

fn standard_role(role: &str) -> Option<&'static str> {
    Some(match role {
        "system" | "developer" => "system",
        "user" | "human" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "bing" | "bard" => "assistant",
        "tool" | "observation" | "function_response" | "ipython" => "tool",
        _ => return None,
    })
}

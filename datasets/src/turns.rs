//! The turns of a conversation as files have them.

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::layout::DropReason;
use crate::records::Record;
use crate::sample::Message;

/// What a role may be, for messages.
pub const ROLES: &str = "system, user, assistant or tool (or ShareGPT's human, gpt, observation)";

const TURNS: &str = "a list of {role, content}, or of {from, value}, of plain strings";

/// `{role, content}`, or ShareGPT's `{from, value}`; either part may be null.
pub struct Turn {
    pub role: Option<String>,
    pub content: Option<String>,
}

impl Turn {
    /// None where a value is no turn: it has other parts only, or something else than strings in these.
    pub fn of(value: &Value) -> Option<Self> {
        let nothing = Map::new();
        let fields = match value {
            Value::Null => &nothing,
            value => value.as_object()?,
        };
        let known = |name: &str| ["role", "content", "from", "value"].contains(&name);
        if !fields.is_empty() && !fields.keys().any(|name| known(name)) {
            return None;
        }
        let part = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_str().map(|text| Some(text.to_string())),
        };
        // A `value` beside role and content is something else, a reward for one.
        let is_share_gpt = part("role")?.is_none() && fields.contains_key("from");
        let (role, content) = match is_share_gpt {
            true => ("from", "value"),
            false => ("role", "content"),
        };
        Some(Self {
            role: part(role)?,
            content: part(content)?,
        })
    }
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

/// The conversation that a list of turns makes, or why it is none. Tables without nested columns (csv) hold the list as JSON.
///
/// # Errors
/// Something else than such a list.
pub fn turns_of(
    record: &Record,
    column: &str,
    value: &Value,
) -> Result<Result<Vec<Message>, DropReason>, DataError> {
    let unexpected = |value: &Value| record.unexpected(column, value, TURNS);
    let read;
    let turns = match value {
        Value::Array(turns) => turns,
        Value::String(text) => {
            let turns = serde_json::from_str::<Vec<Value>>(text);
            read = turns.map_err(|_| unexpected(value))?;
            &read
        }
        other => return Err(unexpected(other)),
    };
    let turns = turns.iter().map(|turn| Turn::of(turn).ok_or(turn));
    let turns = turns.collect::<Result<_, _>>().map_err(unexpected)?;
    conversation(turns).map_err(|role| record.unexpected(column, &Value::String(role), ROLES))
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

//! What a record says: its text, its prompt and its completion, its turns.

use serde_json::{Map, Value};

use crate::config::ColumnMapping;
use crate::error::DataError;
use crate::layout::DropReason;
use crate::records::Record;

/// The texts of a record in their order, or why there are none.
pub type Texts = Result<Vec<String>, DropReason>;

const EXPECTED: &str = "a text, or a list of {role, content}";

/// Parses a record.
pub fn fields(record: &Record) -> Result<Map<String, Value>, DataError> {
    let found = match serde_json::from_str(&record.line) {
        Ok(Value::Object(fields)) => return Ok(fields),
        Ok(_) => "not an object".to_string(),
        Err(error) => error.to_string(),
    };
    Err(DataError::Malformed {
        path: record.path.to_path_buf(),
        expected: "JSON objects",
        found: format!("{} {}: {found}", record.unit, record.row),
    })
}

/// The texts of the columns that the recipe names, or of those that are recognised; the prompt, the
/// chosen and the rejected answer of a preference are three.
///
/// # Errors
/// A record without such columns, or with something else than texts in them.
pub fn texts(
    record: &Record,
    fields: &Map<String, Value>,
    columns: Option<&ColumnMapping>,
) -> Result<Texts, DataError> {
    let names = match columns {
        Some(mapping) => mapped(mapping),
        None => recognised(fields),
    };
    if names.is_empty() {
        return Err(DataError::UnknownLayout {
            path: record.path.to_path_buf(),
            columns: fields.keys().cloned().collect(),
        });
    }
    let mut found = Vec::new();
    for name in names {
        match texts_of(record, fields, name)? {
            Ok(texts) => found.extend(texts),
            // Alpaca's, which may be left out.
            Err(_) if name == "input" && columns.is_none() => {}
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(found))
}

fn mapped(mapping: &ColumnMapping) -> Vec<&str> {
    let named = [
        &mapping.text,
        &mapping.prompt,
        &mapping.completion,
        &mapping.messages,
        &mapping.chosen,
        &mapping.rejected,
    ];
    named.into_iter().flatten().map(String::as_str).collect()
}

fn recognised(fields: &Map<String, Value>) -> Vec<&'static str> {
    const LAYOUTS: [&[&str]; 7] = [
        &["messages"],
        &["conversations"],
        &["prompt", "completion"],
        &["prompt", "chosen", "rejected"],
        &["chosen", "rejected"],
        &["instruction", "output"],
        &["text"],
    ];
    let fits = |layout: &&&[&str]| layout.iter().all(|name| fields.contains_key(*name));
    match LAYOUTS.iter().find(fits) {
        Some(["instruction", "output"]) if fields.contains_key("input") => {
            vec!["instruction", "input", "output"]
        }
        Some(layout) => layout.to_vec(),
        None => Vec::new(),
    }
}

/// The texts of one column: a string, or a list of turns. Turns without text, as calls of tools are,
/// are passed over.
pub fn texts_of(
    record: &Record,
    fields: &Map<String, Value>,
    column: &str,
) -> Result<Texts, DataError> {
    let Some(value) = fields.get(column) else {
        // JSON lines may leave out a field that is null.
        return Ok(Err(DropReason::Null));
    };
    let turns = match value {
        Value::Null => return Ok(Err(DropReason::Null)),
        Value::String(text) if text.trim().is_empty() => return Ok(Err(DropReason::EmptyText)),
        // Tables without nested columns (csv) hold the list as JSON.
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Array(turns)) if text_of_turns(&turns).is_some() => turns,
            _ => return Ok(Ok(vec![text.clone()])),
        },
        Value::Array(turns) => turns.clone(),
        Value::Object(_) => vec![value.clone()],
        other => return Err(record.unexpected(column, other, EXPECTED)),
    };
    match text_of_turns(&turns) {
        None => Err(record.unexpected(column, value, EXPECTED)),
        Some(texts) if texts.is_empty() => Ok(Err(DropReason::EmptyConversation)),
        Some(texts) => Ok(Ok(texts)),
    }
}

/// None where something is no turn.
fn text_of_turns(turns: &[Value]) -> Option<Vec<String>> {
    let mut texts = Vec::with_capacity(turns.len());
    for turn in turns {
        match turn.get("content").or_else(|| turn.get("value"))? {
            Value::String(text) => texts.push(text.clone()),
            Value::Null => {}
            _ => return None,
        }
    }
    Some(texts)
}

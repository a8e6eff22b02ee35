//! Answers to prompts, with the other fields of their records: for stages that compare answers and hand on where they come from.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::config::{ColumnMapping, DataConfig};
use crate::error::DataError;
use crate::records::{Record, read_batches};
use crate::sample::Message;
use crate::texts::fields;
use crate::turns::turns_of;

/// A conversation up to its last answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRecord {
    /// Of the record in its data, from 0.
    pub number: usize,
    /// All before the answer.
    pub prompt: Vec<Message>,
    pub answer: String,
    pub fields: Map<String, Value>,
}

/// The answers of a data set, in the order of its records; records without one are only counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    pub records: Vec<AnswerRecord>,
    pub without: usize,
}

/// Reads conversations, prompts with completions, and Alpaca's and ShareGPT's forms of them.
///
/// # Errors
/// Data that cannot be read, has another layout, or holds no answer at all.
pub fn read_answers(config: &DataConfig<PathBuf>) -> Result<Answers, DataError> {
    let mut found = Answers::default();
    let limit = config.limit.unwrap_or(usize::MAX);
    read_batches(config, &mut |batch| {
        for record in batch {
            if found.records.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            let fields = fields(&record)?;
            match answered(&record, &fields, config.columns.as_ref())? {
                Some((prompt, answer)) => found.records.push(AnswerRecord {
                    number: record.number as usize - 1,
                    prompt,
                    answer,
                    fields,
                }),
                None => found.without += 1,
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if found.records.is_empty() {
        return Err(DataError::Empty {
            path: config.source.clone(),
            found: format!(
                "none of its {} records has an answer\n\
                 hint: name data that a stage `generate` has made, or with `messages` or `prompt` + `completion`",
                found.without
            ),
        });
    }
    Ok(found)
}

/// The prompt and its answer; None where something of it is missing.
fn answered(
    record: &Record,
    fields: &Map<String, Value>,
    columns: Option<&ColumnMapping>,
) -> Result<Option<(Vec<Message>, String)>, DataError> {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
        None | Some(Value::Null | Value::String(_)) => Ok(None),
        Some(other) => Err(record.unexpected(name, other, "a text")),
    };
    let pair = |prompt: Option<String>, answer: Option<String>| {
        (prompt.zip(answer)).map(|(prompt, answer)| (vec![Message::new("user", prompt)], answer))
    };
    let has = |name: &str| fields.contains_key(name);
    let turns = match columns {
        Some(ColumnMapping {
            prompt: Some(prompt),
            completion: Some(completion),
            ..
        }) => return Ok(pair(text(prompt)?, text(completion)?)),
        Some(mapping) => mapping.messages.as_deref(),
        None => ["messages", "conversations"]
            .into_iter()
            .find(|name| has(name)),
    };
    if let Some(column) = turns {
        return of_turns(record, fields, column);
    }
    if columns.is_none() && has("prompt") && has("completion") {
        return Ok(pair(text("prompt")?, text("completion")?));
    }
    if columns.is_none() && has("instruction") && has("output") {
        let mut prompt = text("instruction")?;
        if let (Some(prompt), Some(input)) = (&mut prompt, text("input")?) {
            prompt.push('\n');
            prompt.push_str(&input);
        }
        return Ok(pair(prompt, text("output")?));
    }
    Err(DataError::UnknownLayout {
        path: record.path.to_path_buf(),
        columns: fields.keys().cloned().collect(),
    })
}

fn of_turns(
    record: &Record,
    fields: &Map<String, Value>,
    column: &str,
) -> Result<Option<(Vec<Message>, String)>, DataError> {
    let value = match fields.get(column) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let read = turns_of(record, column, value)?;
    let Ok(mut messages) = read else {
        return Ok(None);
    };
    let Some(last) = messages.iter().rposition(|turn| turn.role == "assistant") else {
        return Ok(None);
    };
    let answer = messages.swap_remove(last).content;
    messages.truncate(last);
    let usable = !messages.is_empty() && !answer.trim().is_empty();
    Ok(usable.then_some((messages, answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answers, String> {
        let file = tempfile::Builder::new()
            .suffix(".jsonl")
            .tempfile()
            .unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = DataConfig::new(file.path().to_path_buf());
        read_answers(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn every_layout_gives_prompt_and_answer() {
        let lines = [
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"more"}],"lineage":{"model":"m"}}"#,
            r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#,
            r#"{"prompt":"q","completion":"a"}"#,
            r#"{"instruction":"q","input":"x","output":"a"}"#,
            r#"{"messages":[{"role":"user","content":"q"}]}"#,
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":" "}]}"#,
            r#"{"prompt":"q","completion":null}"#,
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":null},{"role":"tool","content":"t"},{"role":"assistant","content":"a"}]}"#,
        ];
        let answers = read(&lines.join("\n")).unwrap();
        assert_eq!(answers.without, 4);
        let prompts: Vec<String> = (answers.records.iter())
            .map(|record| {
                let turns = record.prompt.iter().map(|turn| turn.content.as_str());
                turns.collect::<Vec<_>>().join("/")
            })
            .collect();
        assert_eq!(prompts, ["s/q", "q", "q", "q\nx"]);
        assert!(answers.records.iter().all(|record| record.answer == "a"));
        assert_eq!(answers.records[0].fields["lineage"]["model"], "m");
        assert_eq!(answers.records[3].number, 3);
    }

    #[test]
    fn what_holds_no_answers_is_told() {
        let none = read(r#"{"messages":[{"role":"user","content":"q"}]}"#).unwrap_err();
        assert!(
            none.contains("none of its 1 records has an answer"),
            "{none}"
        );
        assert!(none.contains("hint: "), "{none}");
        let text = read(r#"{"text":"t"}"#).unwrap_err();
        assert!(text.contains("no known layout"), "{text}");
        let odd = read(r#"{"messages":[{"role":"judge","content":"q"}]}"#).unwrap_err();
        assert!(odd.contains("\"judge\"") && odd.contains("row 1"), "{odd}");
        let odd = read(r#"{"prompt":3,"completion":"a"}"#).unwrap_err();
        assert!(odd.contains("column `prompt`: found 3"), "{odd}");
    }
}

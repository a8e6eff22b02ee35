//! Preference pairs: a prompt with a chosen and a rejected answer.
//!
//! A side is a text, a turn, some turns that answer the prompt, or a whole conversation. Both sides become conversations;
//! what they have in common at the beginning is the prompt, and only what follows is compared.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::chunks::go_on;
use crate::config::{ColumnMapping, DataConfig};
use crate::error::DataError;
use crate::records::{Record, read_batches};
use crate::sample::Message;
use crate::texts::fields;
use crate::turns::{ROLES, Turn, conversation};

/// How a turn of a dialogue begins that is written as one text, as Anthropic's HH-RLHF is.
const DIALOGUE: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

/// What both sides begin with, and how each goes on: to an assistant turn at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    pub prompt: Vec<Message>,
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
}

/// Pairs that give nothing to learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Both answers are the same but for white space at their ends.
    pub equal: u64,
    /// A prompt or an answer is missing or empty.
    pub empty: u64,
}

/// The pairs of a data set, in the order of its records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preferences {
    pub pairs: Vec<Preference>,
    pub left_out: LeftOut,
}

/// Reads the pairs of a data set.
///
/// # Errors
/// Data that cannot be read, holds no pairs, or none that differ.
pub fn read_preferences(config: &DataConfig<PathBuf>) -> Result<Preferences, DataError> {
    let mut pairs = Vec::new();
    let left_out = read_in_batches(config, &mut |some| {
        pairs.extend(some);
        Ok(())
    })?;
    Ok(Preferences { pairs, left_out })
}

/// As [`read_preferences`], but hands the pairs to `take`: memory holds some of them, not the data.
pub fn read_in_batches(
    config: &DataConfig<PathBuf>,
    take: &mut dyn FnMut(Vec<Preference>) -> Result<(), DataError>,
) -> Result<LeftOut, DataError> {
    let mut wanted = config.limit.unwrap_or(usize::MAX);
    let mut none = true;
    let mut left_out = LeftOut::default();
    let columns = config.columns.as_ref();
    read_batches(config, &mut |batch| {
        let mut pairs = Vec::with_capacity(batch.len());
        for record in batch {
            if pairs.len() == wanted {
                break;
            }
            match preference(&record, &fields(&record)?, columns)? {
                None => left_out.empty += 1,
                Some(pair) if is_same(&pair.chosen, &pair.rejected) => left_out.equal += 1,
                Some(pair) => pairs.push(pair),
            }
        }
        wanted -= pairs.len();
        none &= pairs.is_empty();
        take(pairs)?;
        Ok(go_on(wanted > 0))
    })?;
    if none {
        let LeftOut { equal, empty } = left_out;
        return Err(DataError::NothingPreferred {
            found: format!(
                "{}: of {} records {equal} have two equal answers, and of {empty} a prompt or an answer is empty",
                config.source.display(),
                equal + empty
            ),
        });
    }
    Ok(left_out)
}

fn is_same(a: &[Message], b: &[Message]) -> bool {
    let same =
        |(a, b): (&Message, &Message)| a.role == b.role && a.content.trim() == b.content.trim();
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// What a column holds.
enum Said {
    Nothing,
    Text(String),
    Turns(Vec<Message>),
}

/// The pair of a record; None where something of it is missing.
fn preference(
    record: &Record,
    fields: &Map<String, Value>,
    columns: Option<&ColumnMapping>,
) -> Result<Option<Preference>, DataError> {
    let named = |name: Option<&String>, usual: &'static str| match (columns, name) {
        (Some(_), name) => name.cloned(),
        (None, _) => fields.contains_key(usual).then(|| usual.to_string()),
    };
    let chosen = named(columns.and_then(|c| c.chosen.as_ref()), "chosen");
    let rejected = named(columns.and_then(|c| c.rejected.as_ref()), "rejected");
    let (Some(chosen), Some(rejected)) = (chosen, rejected) else {
        return Err(DataError::NoPairs {
            path: record.path.to_path_buf(),
            columns: fields.keys().cloned().collect(),
        });
    };
    let mut prompt = match columns {
        Some(mapping) => mapping.prompt.as_deref(),
        None => ["prompt", "conversations", "instruction"]
            .into_iter()
            .find(|name| fields.contains_key(*name)),
    }
    .map(|name| said(record, fields, name))
    .transpose()?;
    if let (None, Some(Said::Text(instruction)), true, Said::Text(input)) = (
        columns,
        &mut prompt,
        !fields.contains_key("prompt") && fields.contains_key("instruction"),
        said(record, fields, "input").unwrap_or(Said::Nothing),
    ) && !input.trim().is_empty()
    {
        instruction.push('\n');
        instruction.push_str(&input);
    }
    let prompt = match prompt {
        None => None,
        Some(Said::Nothing) => return Ok(None),
        Some(Said::Text(text)) if text.trim().is_empty() => return Ok(None),
        Some(Said::Text(text)) => Some(vec![Message::new("user", text)]),
        Some(Said::Turns(turns)) => Some(turns),
    };
    let mut sides = Vec::with_capacity(2);
    for column in [&chosen, &rejected] {
        if !fields.contains_key(column) {
            return Err(DataError::MissingColumn {
                path: record.path.to_path_buf(),
                column: column.clone(),
                columns: fields.keys().cloned().collect(),
            });
        }
        let side = said(record, fields, column)?;
        match whole(prompt.as_deref(), side) {
            Ok(Some(turns)) => sides.push(turns),
            Ok(None) => return Ok(None),
            Err(text) => {
                let expected = "turns, or a text beside the column `prompt` that it answers";
                return Err(record.unexpected(column, &Value::String(text), expected));
            }
        }
    }
    let [mut chosen, mut rejected] = [sides.swap_remove(0), sides.swap_remove(0)];
    let common = (chosen.iter().zip(&rejected))
        .take_while(|(a, b)| a == b)
        .count();
    // Equal sides differ at no turn: their last one is what would be learned.
    let common = common.min(chosen.len().min(rejected.len()) - 1);
    let rejected = rejected.split_off(common);
    let reply = chosen.split_off(common);
    let is_empty = |side: &[Message]| side.iter().any(|turn| turn.content.trim().is_empty());
    let usable = common > 0 && !is_empty(&reply) && !is_empty(&rejected);
    Ok(usable.then_some(Preference {
        prompt: chosen,
        chosen: reply,
        rejected,
    }))
}

fn said(record: &Record, fields: &Map<String, Value>, column: &str) -> Result<Said, DataError> {
    let value = match fields.get(column) {
        None | Some(Value::Null) => return Ok(Said::Nothing),
        Some(Value::String(text)) => return Ok(Said::Text(text.clone())),
        Some(value) => value,
    };
    let turns: Option<Vec<Turn>> = match value {
        Value::Array(turns) => turns.iter().map(Turn::of).collect(),
        turn => Turn::of(turn).map(|turn| vec![turn]),
    };
    let expected = "a text, a turn {role, content} or a list of turns";
    let turns = turns.ok_or_else(|| record.unexpected(column, value, expected))?;
    let read = conversation(turns)
        .map_err(|role| record.unexpected(column, &Value::String(role), ROLES))?;
    Ok(read.map_or(Said::Nothing, Said::Turns))
}

/// The whole conversation of a side, to its last answer; None where it has none.
///
/// # Errors
/// A text that nothing says the question of.
fn whole(prompt: Option<&[Message]>, side: Said) -> Result<Option<Vec<Message>>, String> {
    let mut turns = match (side, prompt) {
        (Said::Nothing, _) => return Ok(None),
        (Said::Text(text), Some(prompt)) => [prompt, &[Message::new("assistant", text)]].concat(),
        (Said::Text(text), None) if text.trim().is_empty() => return Ok(None),
        (Said::Text(text), None) => dialogue(&text).ok_or(text)?,
        (Said::Turns(turns), Some(prompt)) if turns[0].role == "assistant" => {
            [prompt, &turns].concat()
        }
        (Said::Turns(turns), _) => turns,
    };
    let last = turns.iter().rposition(|turn| turn.role == "assistant");
    turns.truncate(last.map_or(0, |last| last + 1));
    Ok((!turns.is_empty()).then_some(turns))
}

/// The turns of a dialogue that is one text; None where it does not begin as one.
fn dialogue(text: &str) -> Option<Vec<Message>> {
    let next = |text: &str| {
        let found =
            (DIALOGUE.iter()).filter_map(|(mark, role)| Some((text.find(mark)?, mark, role)));
        found
            .min_by_key(|(at, ..)| *at)
            .map(|(at, mark, role)| (at, mark.len(), *role))
    };
    let (0, mark, mut role) = next(text)? else {
        return None;
    };
    let mut rest = &text[mark..];
    let mut turns = Vec::new();
    while let Some((at, mark, following)) = next(rest) {
        turns.push(Message::new(role, rest[..at].trim()));
        (rest, role) = (&rest[at + mark..], following);
    }
    turns.push(Message::new(role, rest.trim()));
    Some(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, columns: Option<ColumnMapping>) -> Result<Preferences, String> {
        let file = tempfile::Builder::new()
            .suffix(".jsonl")
            .tempfile()
            .unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = DataConfig {
            columns,
            ..DataConfig::new(file.path().to_path_buf())
        };
        read_preferences(&config).map_err(|error| error.to_string())
    }

    fn shown(turns: &[Message]) -> String {
        let turns = turns
            .iter()
            .map(|t| format!("{}:{}", &t.role[..1], t.content));
        turns.collect::<Vec<_>>().join("/")
    }

    #[test]
    fn every_layout_gives_a_prompt_and_two_answers() {
        for line in [
            r#"{"prompt":"q","chosen":"good","rejected":"bad"}"#,
            r#"{"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"good"}],"rejected":[{"role":"assistant","content":"bad"}],"margin":1.5}"#,
            r#"{"prompt":"other","messages":[],"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"},{"role":"user","content":"more"}]}"#,
            r#"{"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"good"},"rejected":{"from":"gpt","value":"bad"}}"#,
            r#"{"chosen":"\n\nHuman: q\n\nAssistant: good","rejected":"\n\nHuman: q\n\nAssistant: bad"}"#,
            r#"{"instruction":"q","input":"","chosen":"good","rejected":"bad"}"#,
        ] {
            let found = read(line, None).unwrap();
            let pair = &found.pairs[0];
            let all = [&pair.prompt, &pair.chosen, &pair.rejected].map(|turns| shown(turns));
            assert_eq!(all, ["u:q", "a:good", "a:bad"], "{line}");
        }
        let columns = ColumnMapping {
            prompt: Some("question".into()),
            chosen: Some("a".into()),
            rejected: Some("b".into()),
            ..ColumnMapping::default()
        };
        let found = read(
            r#"{"question":"q","a":"good","b":"bad","chosen":3}"#,
            Some(columns),
        );
        assert_eq!(shown(&found.unwrap().pairs[0].chosen), "a:good");
    }

    #[test]
    fn the_prompt_is_all_that_both_sides_begin_with() {
        let line = r#"{"chosen":"\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: x","rejected":"\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: y"}"#;
        let pair = &read(line, None).unwrap().pairs[0];
        assert_eq!(shown(&pair.prompt), "u:q/a:a/u:r");
        assert_eq!(
            (shown(&pair.chosen), shown(&pair.rejected)),
            ("a:x".into(), "a:y".into())
        );
    }

    #[test]
    fn equal_and_empty_answers_are_counted() {
        let lines = [
            r#"{"prompt":"q","chosen":"same","rejected":"same\n"}"#,
            r#"{"prompt":"q","chosen":"good","rejected":" "}"#,
            r#"{"prompt":"","chosen":"good","rejected":"bad"}"#,
            r#"{"prompt":"q","chosen":null,"rejected":"bad"}"#,
            r#"{"prompt":"q","chosen":"same","rejected":"same"}"#,
        ];
        let good = r#"{"prompt":"q","chosen":"good","rejected":"bad"}"#;
        let found = read(&format!("{}\n{good}", lines.join("\n")), None).unwrap();
        assert_eq!(found.left_out, LeftOut { equal: 2, empty: 3 });
        assert_eq!(found.pairs.len(), 1);
        let none = read(&lines.join("\n"), None).unwrap_err();
        assert!(
            none.contains("of 5 records 2 have two equal answers, and of 3"),
            "{none}"
        );
    }

    #[test]
    fn what_holds_no_pairs_is_told() {
        let error = read(r#"{"prompt":"q","completion":"a"}"#, None).unwrap_err();
        assert!(error.contains(r#"["prompt", "completion"]"#), "{error}");
        assert!(
            error.contains("`chosen` + `rejected`") && error.contains("hint: "),
            "{error}"
        );
        let error = read(r#"{"chosen":"a","rejected":"b"}"#, None).unwrap_err();
        assert!(
            error.contains("column `chosen`: found \"a\"") && error.contains("`prompt`"),
            "{error}"
        );
        let error = read(r#"{"prompt":"q","chosen":3,"rejected":"b"}"#, None).unwrap_err();
        assert!(error.contains("column `chosen`: found 3"), "{error}");
    }
}

//! Worked examples: the development questions of MMLU and KMMLU as lm-eval carries them, in its YAML files.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::error::DataError;
use datasets::records::Record;
use serde::Deserialize;
use serde_json::{Value, json};

use super::question::{Question, Reader};
use crate::row::Row;

/// What every such file begins with. Files may follow each other without anything between them.
const BEGINNING: &str = "dataset_name:";

#[derive(Deserialize)]
struct TaskFile {
    dataset_name: String,
    fewshot_config: Fewshot,
}

#[derive(Deserialize)]
struct Fewshot {
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    question: String,
    target: String,
    #[serde(rename = "A")]
    a: Option<String>,
    #[serde(rename = "B")]
    b: Option<String>,
    #[serde(rename = "C")]
    c: Option<String>,
    #[serde(rename = "D")]
    d: Option<String>,
}

/// Those task files of a directory that hold worked examples. Prompts and descriptions of groups lie beside them.
///
/// # Errors
/// A directory that cannot be read.
pub(super) fn task_files(source: &Path) -> Result<Vec<(PathBuf, String)>, DataError> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source| DataError::Io {
            action,
            path,
            source,
        }
    };
    let mut found = Vec::new();
    if !source.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(source).map_err(failed("list", source))? {
        let path = entry.map_err(failed("list", source))?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        if text.lines().any(|line| line.starts_with(BEGINNING)) && text.contains("samples:") {
            found.push((path, text));
        }
    }
    found.sort();
    Ok(found)
}

/// The questions of a text of such files. An example whose choices or whose answer cannot be told is passed over.
pub(super) fn worked_examples(
    record: &Record,
    text: &str,
    read: Reader,
) -> Result<Vec<Question>, DataError> {
    let malformed = |found: String| DataError::Malformed {
        path: record.path.to_path_buf(),
        expected: "questions: a table with their columns, or task files of lm-eval with worked examples (YAML)",
        found,
    };
    let mut starts: Vec<usize> = text.match_indices(BEGINNING).map(|(at, _)| at).collect();
    starts.retain(|&at| at == 0 || text.as_bytes()[at - 1] == b'\n');
    if starts.is_empty() {
        return Err(malformed(format!(
            "a text without a line that begins with `{BEGINNING}`"
        )));
    }
    let mut found = Vec::new();
    for (i, &start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        let file: TaskFile = serde_yaml_ng::from_str(&text[start..end])
            .map_err(|error| malformed(format!("file {}: {error}", i + 1)))?;
        for sample in &file.fewshot_config.samples {
            let Some(row) = sample.as_row(&file.dataset_name) else {
                continue;
            };
            let Value::Object(fields) = row else {
                continue;
            };
            found.extend(read(&Row { record, fields })?);
        }
    }
    Ok(found)
}

impl Sample {
    /// A record of question, choices and the letter of the answer.
    fn as_row(&self, subject: &str) -> Option<Value> {
        let (_, after) = self.target.rsplit_once('(')?;
        let letter = after.get(..1).filter(|letter| "ABCD".contains(letter))?;
        let (question, choices) = match (&self.a, &self.b, &self.c, &self.d) {
            (Some(a), Some(b), Some(c), Some(d)) => {
                let question = self.question.trim_start_matches("질문: ");
                (question, [a.as_str(), b, c, d])
            }
            _ => split_choices(&self.question)?,
        };
        Some(json!({
            "question": question, "choices": choices, "answer": letter, "subject": subject,
        }))
    }
}

/// `question\n(A) … (B) … (C) … (D) …` in parts, the choices on one line or on several.
fn split_choices(text: &str) -> Option<(&str, [&str; 4])> {
    let split = |text: &str, mark: &str| {
        let marks = text.match_indices(mark).map(|(at, _)| at);
        let mut at_words = marks.filter(|&at| text[..at].ends_with([' ', '\n']));
        let first = at_words.next()?;
        Some((first, first + mark.len()))
    };
    let (question, rest) = text.rsplit_once("\n(A)")?;
    let mut rest = rest;
    let mut parts = Vec::with_capacity(4);
    for mark in ["(B)", "(C)", "(D)"] {
        let (end, next) = split(rest, mark)?;
        parts.push(rest[..end].trim());
        rest = &rest[next..];
    }
    parts.push(rest.trim());
    Some((question, <[&str; 4]>::try_from(parts).ok()?))
}

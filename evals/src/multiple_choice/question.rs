//! Questions with choices, read from the layouts in which their sets are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::config::{DataConfig, Format};
use datasets::error::DataError;
use datasets::files::list_files;
use datasets::records::{Record, csv_rows, read_batches};
use datasets::texts::fields;
use serde_json::{Value, json};
use std::ops::ControlFlow;

use super::shots::{task_files, worked_examples};
use crate::row::Row;

/// One question. What the model reads is `prompt`; each of `choices` is scored behind it, after a space.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// In small letters; empty for sets without subjects.
    pub subject: String,
    pub prompt: String,
    pub choices: Vec<String>,
    /// Which choice is right, from 0.
    pub answer: usize,
}

/// The questions of a data set, and how many records were a header in the middle of the data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Questions {
    pub questions: Vec<Question>,
    pub headers: u64,
}

/// Makes a question of a record; `None` where the record is a header line.
pub(super) type Reader = fn(&Row) -> Result<Option<Question>, DataError>;

/// Reads a data set, its first questions where it has a limit.
///
/// # Errors
/// Files that cannot be read, records without the columns of the set, data without questions.
pub(super) fn read_questions(
    config: &DataConfig<PathBuf>,
    read: Reader,
) -> Result<Questions, DataError> {
    let mut found = Questions::default();
    let truncate =
        |questions: &mut Vec<Question>| questions.truncate(config.limit.unwrap_or(usize::MAX));
    let task_files = task_files(&config.source)?;
    if !task_files.is_empty() {
        for (path, text) in task_files {
            let record = Record {
                number: 1,
                path: path.into(),
                row: 1,
                unit: "file",
                line: json!({ "text": text }).to_string(),
            };
            found
                .questions
                .extend(worked_examples(&record, &text, read)?);
        }
        truncate(&mut found.questions);
        return Ok(found);
    }
    let mut take = |record: &Record| -> Result<(), DataError> {
        let fields = fields(record)?;
        match fields.get("text").and_then(Value::as_str) {
            Some(text) if fields.len() == 1 => {
                found.questions.extend(worked_examples(record, text, read)?);
            }
            _ => match read(&Row { record, fields })? {
                Some(question) => found.questions.push(question),
                None => found.headers += 1,
            },
        }
        Ok(())
    };
    match official_files(config)? {
        Some(files) => {
            for path in files {
                official_rows(&path, &mut take)?;
            }
        }
        None => read_batches(config, &mut |records| {
            records.iter().try_for_each(&mut take)?;
            Ok(ControlFlow::Continue(()))
        })?,
    }
    truncate(&mut found.questions);
    match found.questions.is_empty() {
        false => Ok(found),
        true => Err(DataError::Empty {
            path: config.source.clone(),
            found: "no questions are in it".into(),
        }),
    }
}

/// MMLU's own release: csv files without a header, each of a subject that its name begins with.
fn official_files(config: &DataConfig<PathBuf>) -> Result<Option<Vec<PathBuf>>, DataError> {
    let (files, _) = list_files(&config.source, config.format)?;
    let (csv, others): (Vec<_>, Vec<_>) =
        (files.into_iter()).partition(|(_, format)| *format == Format::Csv);
    let Some((first, _)) = csv.first() else {
        return Ok(None);
    };
    let rows = csv_rows(first)?;
    let is_question =
        |row: &Vec<String>| row.len() == 6 && ["A", "B", "C", "D"].contains(&row[5].trim());
    if !rows.first().is_some_and(is_question) {
        return Ok(None);
    }
    match others.into_iter().next() {
        None => Ok(Some(csv.into_iter().map(|(path, _)| path).collect())),
        Some((path, _)) => Err(DataError::Malformed {
            path,
            expected: "csv files alone, as beside it: MMLU's own, without a header",
            found: "a table of another format".into(),
        }),
    }
}

fn official_rows(
    path: &Path,
    take: &mut dyn FnMut(&Record) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let subject = ["_test", "_dev", "_val"]
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .unwrap_or(&name);
    let shared: Arc<Path> = path.into();
    for (at, row) in csv_rows(path)?.into_iter().enumerate() {
        let [question, a, b, c, d, answer] =
            <[String; 6]>::try_from(row).map_err(|row| DataError::Malformed {
                path: path.to_path_buf(),
                expected: "a question, four choices and a letter a row",
                found: format!("{} fields in row {}", row.len(), at + 1),
            })?;
        let line = json!({
            "question": question, "choices": [a, b, c, d], "answer": answer.trim(), "subject": subject,
        });
        take(&Record {
            number: at as u64 + 1,
            path: shared.clone(),
            row: at + 1,
            unit: "row",
            line: line.to_string(),
        })?;
    }
    Ok(())
}

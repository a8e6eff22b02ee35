//! Questions with choices, read from the layouts in which their sets are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::config::{DataConfig, Format};
use datasets::error::DataError;
use datasets::files::list_files;
use datasets::records::{Record, csv_rows, read_batches};
use datasets::texts::fields;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;

use super::shots::{task_files, worked_examples};

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

/// A record of a set, with words for what is wrong in it.
pub(super) struct Row<'a> {
    pub record: &'a Record,
    pub fields: Map<String, Value>,
}

/// Makes a question of a record; `None` where the record is a header line.
pub(super) type Reader = fn(&Row) -> Result<Option<Question>, DataError>;

/// Reads a data set.
///
/// # Errors
/// Files that cannot be read, records without the columns of the set, data without questions.
pub(super) fn read_questions(
    config: &DataConfig<PathBuf>,
    read: Reader,
) -> Result<Questions, DataError> {
    let mut found = Questions::default();
    let task_files = task_files(&config.source)?;
    if !task_files.is_empty() {
        for (path, text) in task_files {
            let record = Record {
                number: 1,
                path: path.into(),
                row: 1,
                line: json!({ "text": text }).to_string(),
            };
            found
                .questions
                .extend(worked_examples(&record, &text, read)?);
        }
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
            line: line.to_string(),
        })?;
    }
    Ok(())
}

impl Row<'_> {
    /// The first of these columns that is there and not null.
    pub fn value(&self, columns: &[&str]) -> Option<(&Value, String)> {
        columns.iter().find_map(|&column| {
            let value = self.fields.get(column).filter(|value| !value.is_null())?;
            Some((value, column.to_string()))
        })
    }

    pub fn text(&self, columns: &[&str]) -> Result<String, DataError> {
        match self.value(columns) {
            Some((Value::String(text), _)) => Ok(text.clone()),
            // A table may hold "12" as a number.
            Some((Value::Number(number), _)) => Ok(number.to_string()),
            Some((other, column)) => Err(self.record.unexpected(&column, other, "a text")),
            None => Err(self.missing(columns)),
        }
    }

    pub fn texts(&self, columns: &[&str]) -> Result<Vec<String>, DataError> {
        let (value, column) = self.value(columns).ok_or_else(|| self.missing(columns))?;
        let unexpected = || self.record.unexpected(&column, value, "a list of texts");
        let parsed;
        let list = match value {
            Value::Array(list) => list,
            // csv holds lists as JSON.
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|_| unexpected())?;
                &parsed
            }
            _ => return Err(unexpected()),
        };
        list.iter()
            .map(|text| text.as_str().map(str::to_string).ok_or_else(unexpected))
            .collect()
    }

    /// Which of `count` choices a column names: by a letter, or by a number that begins with `first`.
    pub fn choice(&self, columns: &[&str], count: usize, first: i64) -> Result<usize, DataError> {
        let (value, column) = self.value(columns).ok_or_else(|| self.missing(columns))?;
        let number = |number: i64| usize::try_from(number - first).ok();
        let found = match value {
            Value::Number(found) => found.as_i64().and_then(number),
            Value::String(text) => match text.trim().as_bytes() {
                [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
                _ => text.trim().parse().ok().and_then(number),
            },
            _ => None,
        };
        found.filter(|&choice| choice < count).ok_or_else(|| {
            let last = char::from(b'A' + count.clamp(1, 26) as u8 - 1);
            let expected = format!(
                "a letter from A to {last} or a number from {first} to {}",
                first + count as i64 - 1
            );
            self.record.unexpected(&column, value, &expected)
        })
    }

    fn missing(&self, columns: &[&str]) -> DataError {
        DataError::MissingColumn {
            path: self.record.path.to_path_buf(),
            column: columns.join("` or `"),
            columns: self.fields.keys().cloned().collect(),
        }
    }
}

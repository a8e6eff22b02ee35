//! Which columns of a table hold what, and how its rows become samples.

use std::path::Path;

use polars::prelude::{AnyValue, DataFrame, DataType, Schema, Series};
use serde::{Deserialize, Serialize};

use crate::config::ColumnMapping;
use crate::error::DataError;
use crate::sample::Sample;
use crate::turns::{ROLES, Turn, conversation};

/// Why a row gave no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// A column that is needed holds null.
    Null,
    /// The text, the prompt or the completion is empty or only white space.
    EmptyText,
    /// The conversation has no turns.
    EmptyConversation,
    /// The conversation has no assistant turn, so there is nothing to learn.
    NoAssistantTurn,
}

impl DropReason {
    /// For messages: rows with …
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Null => "null in a column that is needed",
            Self::EmptyText => "an empty text, prompt or completion",
            Self::EmptyConversation => "a conversation without turns",
            Self::NoAssistantTurn => "a conversation without an assistant turn",
        }
    }
}

/// The layout of one table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layout {
    Text {
        text: String,
    },
    Completion {
        prompt: String,
        completion: String,
    },
    Alpaca {
        input: bool,
    },
    Turns {
        column: String,
        role: &'static str,
        content: &'static str,
    },
}

impl Layout {
    /// Recognises the layout of a table, or takes it from the recipe's mapping.
    pub(crate) fn detect(
        path: &Path,
        schema: &Schema,
        mapping: Option<&ColumnMapping>,
    ) -> Result<Self, DataError> {
        let columns = || {
            schema
                .iter_names()
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
        };
        let has = |name: &str| schema.contains(name);
        if let Some(mapping) = mapping {
            return Self::from_mapping(path, schema, mapping, &columns());
        }
        let layout = if has("messages") {
            Self::turns("messages", schema)
        } else if has("conversations") {
            Self::turns("conversations", schema)
        } else if has("prompt") && has("completion") {
            Self::Completion {
                prompt: "prompt".into(),
                completion: "completion".into(),
            }
        } else if has("instruction") && has("output") {
            Self::Alpaca {
                input: has("input"),
            }
        } else if has("text") {
            Self::Text {
                text: "text".into(),
            }
        } else {
            return Err(DataError::UnknownLayout {
                path: path.to_path_buf(),
                columns: columns(),
            });
        };
        Ok(layout)
    }

    fn from_mapping(
        path: &Path,
        schema: &Schema,
        mapping: &ColumnMapping,
        columns: &[String],
    ) -> Result<Self, DataError> {
        let layout = match (
            &mapping.text,
            &mapping.prompt,
            &mapping.completion,
            &mapping.messages,
        ) {
            (Some(text), None, None, None) => Self::Text { text: text.clone() },
            (None, Some(prompt), Some(completion), None) => Self::Completion {
                prompt: prompt.clone(),
                completion: completion.clone(),
            },
            (None, None, None, Some(messages)) => Self::turns(messages, schema),
            _ => {
                let found = serde_json::to_string(mapping).unwrap_or_default();
                return Err(DataError::Mapping { found });
            }
        };
        for column in layout.columns() {
            if !schema.contains(&column) {
                return Err(DataError::MissingColumn {
                    path: path.to_path_buf(),
                    column,
                    columns: columns.to_vec(),
                });
            }
        }
        Ok(layout)
    }

    /// `{role, content}` unless the turns are ShareGPT's `{from, value}`.
    fn turns(column: &str, schema: &Schema) -> Self {
        let share_gpt = match schema.get(column) {
            Some(DataType::List(inner)) => match inner.as_ref() {
                DataType::Struct(fields) => fields.iter().any(|f| f.name() == "from"),
                _ => false,
            },
            Some(DataType::String) => column == "conversations",
            _ => false,
        };
        let (role, content) = if share_gpt {
            ("from", "value")
        } else {
            ("role", "content")
        };
        Self::Turns {
            column: column.into(),
            role,
            content,
        }
    }

    /// The columns that have to be read.
    pub(crate) fn columns(&self) -> Vec<String> {
        match self {
            Self::Text { text } => vec![text.clone()],
            Self::Completion { prompt, completion } => vec![prompt.clone(), completion.clone()],
            Self::Alpaca { input } => {
                let mut columns = vec!["instruction".to_string(), "output".to_string()];
                if *input {
                    columns.push("input".into());
                }
                columns
            }
            Self::Turns { column, .. } => vec![column.clone()],
        }
    }

    /// Row `row` of `table`; `first_row` rows of the file came before the table.
    pub(crate) fn sample(
        &self,
        path: &Path,
        table: &DataFrame,
        row: usize,
        first_row: usize,
    ) -> Result<Result<Sample, DropReason>, DataError> {
        let cell = Cell {
            path,
            table,
            row,
            number: first_row + row + 1,
        };
        Ok(match self {
            Self::Text { text } => cell
                .text(text)?
                .and_then(|text| filled(text).map(Sample::Text)),
            Self::Completion { prompt, completion } => {
                completion_sample(cell.text(prompt)?, cell.text(completion)?)
            }
            Self::Alpaca { input } => {
                let mut prompt = cell.text("instruction")?;
                if let (true, Ok(instruction)) = (*input, &mut prompt)
                    && let Ok(input) = cell.text("input")?
                    && !input.trim().is_empty()
                {
                    instruction.push('\n');
                    instruction.push_str(&input);
                }
                completion_sample(prompt, cell.text("output")?)
            }
            Self::Turns {
                column,
                role,
                content,
            } => cell.turns(column, role, content)?,
        })
    }
}

fn filled(text: String) -> Result<String, DropReason> {
    if text.trim().is_empty() {
        Err(DropReason::EmptyText)
    } else {
        Ok(text)
    }
}

fn completion_sample(
    prompt: Result<String, DropReason>,
    completion: Result<String, DropReason>,
) -> Result<Sample, DropReason> {
    Ok(Sample::Completion {
        prompt: filled(prompt?)?,
        completion: filled(completion?)?,
    })
}

/// One row of a table, with what its errors have to name.
struct Cell<'a> {
    path: &'a Path,
    table: &'a DataFrame,
    row: usize,
    number: usize,
}

impl Cell<'_> {
    fn error(
        &self,
        column: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> DataError {
        DataError::Row {
            path: self.path.to_path_buf(),
            row: self.number,
            column: column.to_string(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn value(&self, column: &str) -> Result<AnyValue<'_>, DataError> {
        self.table
            .column(column)
            .and_then(|c| c.get(self.row))
            .map_err(|e| self.error(column, e.to_string(), "a value"))
    }

    fn text(&self, column: &str) -> Result<Result<String, DropReason>, DataError> {
        match self.value(column)? {
            AnyValue::Null => Ok(Err(DropReason::Null)),
            value => match value.get_str() {
                Some(text) => Ok(Ok(text.to_string())),
                None => Err(self.error(column, describe(&value), "a string")),
            },
        }
    }

    fn turns(
        &self,
        column: &str,
        role: &str,
        content: &str,
    ) -> Result<Result<Sample, DropReason>, DataError> {
        let value = self.value(column)?;
        let turns = match (&value, value.get_str()) {
            (AnyValue::Null, _) => return Ok(Err(DropReason::Null)),
            (AnyValue::List(series), _) => self.struct_turns(column, series, role, content)?,
            // Tables without nested columns (csv) hold the list as JSON.
            (_, Some(text)) => self.json_turns(column, text)?,
            _ => {
                return Err(self.error(
                    column,
                    describe(&value),
                    format!("a list of {{{role}, {content}}}"),
                ));
            }
        };
        let read = conversation(turns)
            .map_err(|role| self.error(column, format!("role `{role}`"), ROLES))?;
        Ok(read.map(Sample::Conversation))
    }

    fn struct_turns(
        &self,
        column: &str,
        series: &Series,
        role: &str,
        content: &str,
    ) -> Result<Vec<Turn>, DataError> {
        if series.is_empty() {
            return Ok(Vec::new());
        }
        let expected = || format!("a list of {{{role}, {content}}}");
        let turns = series
            .struct_()
            .map_err(|_| self.error(column, format!("a list of {}", series.dtype()), expected()))?;
        let field = |name: &str| -> Result<Vec<Option<String>>, DataError> {
            let values = turns.field_by_name(name).map_err(|_| {
                self.error(column, format!("a list of {}", series.dtype()), expected())
            })?;
            let values = values.str().map_err(|_| {
                self.error(
                    column,
                    format!("`{name}` of type {}", values.dtype()),
                    "plain strings",
                )
            })?;
            Ok(values.iter().map(|v| v.map(str::to_string)).collect())
        };
        Ok(field(role)?
            .into_iter()
            .zip(field(content)?)
            .map(|(role, content)| Turn { role, content })
            .collect())
    }

    fn json_turns(&self, column: &str, text: &str) -> Result<Vec<Turn>, DataError> {
        serde_json::from_str(text).map_err(|e| {
            self.error(
                column,
                format!("text that is no JSON list of turns ({e})"),
                "a list of turns",
            )
        })
    }
}

fn describe(value: &AnyValue<'_>) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(60) {
        text.truncate(cut);
        text.push('…');
    }
    format!("{text} of type {}", value.dtype())
}

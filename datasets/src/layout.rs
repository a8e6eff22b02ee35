//! Which columns of a table hold what, and how its rows become samples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::ColumnMapping;
use crate::error::DataError;
use crate::records::Record;
use crate::sample::Sample;
use crate::turns::turns_of;

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
    Text { text: String },
    Completion { prompt: String, completion: String },
    Alpaca { input: bool },
    Turns { column: String },
}

/// Columns of turns, whatever else a table has.
const COLUMNS_OF_TURNS: [&str; 2] = ["messages", "conversations"];

impl Layout {
    /// Whether further columns would change nothing: with those of the mapping, or with the first of [`COLUMNS_OF_TURNS`].
    pub(crate) fn is_certain(columns: &[String], mapping: Option<&ColumnMapping>) -> bool {
        let has = |name: &str| columns.iter().any(|column| column == name);
        match mapping.map(Self::from_mapping) {
            Some(Ok(layout)) => layout.columns().iter().all(|name| has(name)),
            Some(Err(_)) => true,
            None => has(COLUMNS_OF_TURNS[0]),
        }
    }

    /// Recognises the layout of a table by its columns, or takes it from the recipe's mapping.
    pub(crate) fn detect(
        path: &Path,
        columns: &[String],
        mapping: Option<&ColumnMapping>,
    ) -> Result<Self, DataError> {
        let has = |name: &str| columns.iter().any(|column| column == name);
        if let Some(mapping) = mapping {
            let layout = Self::from_mapping(mapping)?;
            return match layout.columns().into_iter().find(|name| !has(name)) {
                None => Ok(layout),
                Some(column) => Err(DataError::MissingColumn {
                    path: path.to_path_buf(),
                    column,
                    columns: columns.to_vec(),
                }),
            };
        }
        if let Some(turns) = COLUMNS_OF_TURNS.into_iter().find(|name| has(name)) {
            Ok(Self::Turns {
                column: turns.into(),
            })
        } else if has("prompt") && has("completion") {
            Ok(Self::Completion {
                prompt: "prompt".into(),
                completion: "completion".into(),
            })
        } else if has("instruction") && has("output") {
            Ok(Self::Alpaca {
                input: has("input"),
            })
        } else if has("text") {
            Ok(Self::Text {
                text: "text".into(),
            })
        } else {
            Err(DataError::UnknownLayout {
                path: path.to_path_buf(),
                columns: columns.to_vec(),
            })
        }
    }

    fn from_mapping(mapping: &ColumnMapping) -> Result<Self, DataError> {
        let named = (
            &mapping.text,
            &mapping.prompt,
            &mapping.completion,
            &mapping.messages,
        );
        match named {
            (Some(text), None, None, None) => Ok(Self::Text { text: text.clone() }),
            (None, Some(prompt), Some(completion), None) => Ok(Self::Completion {
                prompt: prompt.clone(),
                completion: completion.clone(),
            }),
            (None, None, None, Some(messages)) => Ok(Self::Turns {
                column: messages.clone(),
            }),
            _ => {
                let found = serde_json::to_string(mapping).unwrap_or_default();
                Err(DataError::Mapping { found })
            }
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
            Self::Turns { column } => vec![column.clone()],
        }
    }

    /// The sample of a row, or why it gives none.
    ///
    /// # Errors
    /// Something else than the text or the turns that a column should hold.
    pub(crate) fn sample(&self, row: &Row) -> Result<Result<Sample, DropReason>, DataError> {
        Ok(match self {
            Self::Text { text } => {
                (row.text(text)?).and_then(|text| filled(text).map(Sample::Text))
            }
            Self::Completion { prompt, completion } => {
                completion_sample(row.text(prompt)?, row.text(completion)?)
            }
            Self::Alpaca { input } => {
                let mut prompt = row.text("instruction")?;
                if let (true, Ok(instruction)) = (*input, &mut prompt)
                    && let Ok(input) = row.text("input")?
                    && !input.trim().is_empty()
                {
                    instruction.push('\n');
                    instruction.push_str(&input);
                }
                completion_sample(prompt, row.text("output")?)
            }
            Self::Turns { column } => row.turns(column)?,
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

/// A row of a table; a field that it lacks is null.
pub(crate) struct Row<'a> {
    pub record: &'a Record,
    pub fields: Map<String, Value>,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Result<Result<String, DropReason>, DataError> {
        match self.fields.get(column) {
            None | Some(Value::Null) => Ok(Err(DropReason::Null)),
            Some(Value::String(text)) => Ok(Ok(text.clone())),
            Some(other) => Err(self.record.unexpected(column, other, "a string")),
        }
    }

    fn turns(&self, column: &str) -> Result<Result<Sample, DropReason>, DataError> {
        match self.fields.get(column) {
            None | Some(Value::Null) => Ok(Err(DropReason::Null)),
            // A cell of a csv file that holds nothing.
            Some(Value::String(text)) if text.trim().is_empty() => Ok(Err(DropReason::Null)),
            Some(turns) => Ok(turns_of(self.record, column, turns)?.map(Sample::Conversation)),
        }
    }
}

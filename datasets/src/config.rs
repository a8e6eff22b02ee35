//! How a recipe describes data.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files::format_of_name;

/// A data set. `S` is where it comes from: the recipe's own source type when written, a local path once resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig<S> {
    /// Where it is: a path to a file, or to a directory whose files are read in the order of their names;
    /// hf:datasets/org/name/FILE; or a table.
    pub source: S,
    /// Layout of the files. Left out, the extension decides, then the first bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which columns hold what. Left out, they are recognised by their usual names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<ColumnMapping>,
    /// At most so many samples, from the start. All when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// How a plain text file becomes samples.
    #[serde(default)]
    pub chunk: Chunk,
}

impl<S> DataConfig<S> {
    /// All of `source`, with the layout recognised from its contents.
    pub fn new(source: S) -> Self {
        Self {
            source,
            format: None,
            columns: None,
            limit: None,
            chunk: Chunk::default(),
        }
    }

    /// The same description with another kind of source, e.g. the path that a source was resolved to.
    pub fn with_source<T>(&self, source: T) -> DataConfig<T> {
        DataConfig {
            source,
            format: self.format,
            columns: self.columns.clone(),
            limit: self.limit,
            chunk: self.chunk,
        }
    }
}

impl<S> DataConfig<S> {
    /// What reads well and makes no sense: the key that it stands under, and what is wrong. `name` is the file's, where the
    /// source is one file.
    pub fn check(&self, name: Option<&Path>) -> Vec<(&'static str, &'static str)> {
        let format = self.format.or_else(|| format_of_name(name?));
        let columns = self.columns.as_ref();
        let wrong = [
            (self.limit == Some(0), "limit", "`limit` must be at least 1"),
            (
                columns.is_some_and(|columns| !columns.is_whole()),
                "columns",
                "`columns` takes { text }, { prompt, completion }, { messages } or { prompt, chosen, rejected }",
            ),
            (
                self.chunk != Chunk::File && format.is_some_and(Format::is_table),
                "chunk",
                "`chunk` has no part here: it cuts plain text, and this is a table",
            ),
        ];
        (wrong.into_iter().filter(|(holds, _, _)| *holds))
            .map(|(_, key, says)| (key, says))
            .collect()
    }
}

impl ColumnMapping {
    fn is_whole(&self) -> bool {
        let Self {
            text,
            prompt,
            completion,
            messages,
            chosen,
            rejected,
        } = self;
        if chosen.is_some() || rejected.is_some() {
            // Sides that are whole conversations need no prompt.
            let others = [text, completion, messages];
            return chosen.is_some() && rejected.is_some() && others.iter().all(|o| o.is_none());
        }
        matches!(
            (text, prompt, completion, messages),
            (Some(_), None, None, None)
                | (None, Some(_), Some(_), None)
                | (None, None, None, Some(_))
        )
    }
}

/// File formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Plain UTF-8 text.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// One JSON array of objects, or one object on several lines.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// Whether files of this format are tables with columns.
    pub fn is_table(self) -> bool {
        self != Format::Text
    }
}

/// How a plain text file becomes samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chunk {
    /// The whole file is one sample; packing splits it into windows of the sequence length.
    #[default]
    File,
    /// Blank lines separate samples.
    Paragraphs,
    /// Each line that is not blank is a sample.
    Lines,
    /// Each function and each class at the top of a Python file is a sample.
    Definitions,
}

/// Names of the columns to read: `{ text }`, `{ prompt, completion }`, `{ messages }`, or of pairs
/// `{ prompt, chosen, rejected }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnMapping {
    /// The column of plain text; it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The column of the prompt; with `completion`, or with `chosen` and `rejected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The column of the answer to `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// The column of a conversation, a list of { role, content }; it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// The column of the better answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// The column of the worse answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_part_in_the_format_is_told() {
        for (json, name, key) in [
            (
                r#"{"source": "a", "columns": {"prompt": "q"}}"#,
                "a",
                "columns",
            ),
            (r#"{"source": "a", "columns": {}}"#, "a", "columns"),
            (
                r#"{"source": "a", "chunk": "lines"}"#,
                "a.jsonl.gz",
                "chunk",
            ),
            (r#"{"source": "a", "limit": 0}"#, "a", "limit"),
        ] {
            let config: DataConfig<String> = serde_json::from_str(json).unwrap();
            let found = config.check(Some(Path::new(name)));
            assert!(found.len() == 1 && found[0].0 == key, "{json}: {found:?}");
        }
        let config: DataConfig<String> =
            serde_json::from_str(r#"{"source": "a", "columns": {"text": "q"}}"#).unwrap();
        assert!(config.check(Some(Path::new("a.json"))).is_empty());
        assert!(config.check(None).is_empty());
    }

    #[test]
    fn reads_defaults_and_refuses_unknown_keys() {
        let config: DataConfig<String> = serde_json::from_str(
            r#"{"source": "a.jsonl", "columns": {"prompt": "q", "completion": "a"}}"#,
        )
        .unwrap();
        assert_eq!(config.chunk, Chunk::File);
        assert_eq!(
            config.columns.as_ref().unwrap().prompt.as_deref(),
            Some("q")
        );
        let again: DataConfig<String> =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);

        let error = serde_json::from_str::<DataConfig<String>>(r#"{"source": "a", "limits": 3}"#)
            .unwrap_err();
        assert!(error.to_string().contains("limits"), "{error}");
        assert!(error.to_string().contains("limit"), "{error}");
    }
}

//! What can go wrong between a data file and a batch.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Layouts that are recognised without a mapping, as shown to the user.
pub const ACCEPTED_LAYOUTS: &str = "`text`; `prompt` + `completion`; `messages` (a list of {role, content}); \
     Alpaca: `instruction` + `output` (and `input`); ShareGPT: `conversations` (a list of {from, value})";

/// Layouts of pairs that are recognised without a mapping.
pub const ACCEPTED_PAIRS: &str = "`chosen` + `rejected`, as texts or turns, beside `prompt`, `conversations` or `instruction` (and `input`); \
     or alone, as whole conversations";

/// An error of this crate. Each names the file and what was found in it.
#[derive(Debug, Error)]
pub enum DataError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: not readable as {expected}: {found}", path.display())]
    Malformed {
        path: PathBuf,
        expected: &'static str,
        found: String,
    },
    #[error("{}, row {row}: column `{column}`: found {found}, expected {expected}", path.display())]
    Row {
        path: PathBuf,
        /// 1-based, without a header line.
        row: usize,
        column: String,
        found: String,
        expected: String,
    },
    #[error(
        "{}: no known layout among the columns {columns:?}; accepted: {ACCEPTED_LAYOUTS}\n\
         hint: name the columns in the recipe: columns = {{ prompt = \"…\", completion = \"…\" }}",
        path.display()
    )]
    UnknownLayout { path: PathBuf, columns: Vec<String> },
    #[error(
        "{}: no pairs among the columns {columns:?}; accepted: {ACCEPTED_PAIRS}\n\
         hint: name the columns in the recipe: columns = {{ prompt = \"…\", chosen = \"…\", rejected = \"…\" }}",
        path.display()
    )]
    NoPairs { path: PathBuf, columns: Vec<String> },
    #[error("{}: there is no column `{column}`; the columns are {columns:?}", path.display())]
    MissingColumn {
        path: PathBuf,
        column: String,
        columns: Vec<String>,
    },
    #[error("columns: {found}; expected {{ text }}, {{ prompt, completion }} or {{ messages }}")]
    Mapping { found: String },
    #[error("{}: no samples: {found}", path.display())]
    Empty { path: PathBuf, found: String },
    #[error(
        "everything was dropped, all of {records} records: {found}\n\
         hint: loosen the rule that drops most; nothing was written"
    )]
    NothingKept {
        records: u64,
        /// Counts by rule.
        found: String,
    },
    #[error("tokenizer {name}: {found}")]
    Tokenizer { name: String, found: String },
    #[error(
        "tokenizer {name}: unknown {key} `{found}`; known: {known}\n\
         hint: pass the tokenizer.json of the original model instead"
    )]
    UnsupportedTokenizer {
        name: String,
        key: &'static str,
        found: String,
        known: String,
    },
    #[error(
        "tokenizer {name}: GGUF has no name for its {part} {found}; known: {known}\n\
         hint: safetensors go with any tokenizer"
    )]
    NotInGguf {
        name: String,
        part: &'static str,
        found: String,
        known: String,
    },
    #[error("chat template: {found}")]
    Template { found: String },
    #[error(
        "chat template: turn {turn} ({role}): {found}\n\
         hint: completions can only be marked with a template that appends each turn to the text before it"
    )]
    TemplatePrefix {
        /// 1-based.
        turn: usize,
        role: String,
        found: String,
    },
    #[error(
        "chat template: turn {turn}: its end-of-sequence token `{token}` lies outside of the turn, so it would be masked \
         and the model would never learn to stop\nhint: use a template that writes `{token}` when the turn itself is written"
    )]
    MaskedEndOfSequence { turn: usize, token: String },
    #[error(
        "a conversation needs a chat template, but the tokenizer has none\n\
         hint: use the tokenizer of an instruct model, or data with `text` or `prompt` + `completion`"
    )]
    NoTemplate,
    #[error(
        "nothing to learn from: {found}\n\
         hint: check the columns of the data, the roles of its turns (only `assistant` turns are learned), \
         the chat template, and that sequence_length leaves room for completions after the prompts"
    )]
    NothingSupervised { found: String },
    #[error(
        "no pair to learn from: {found}\n\
         hint: check the columns of the data, and that sequence_length leaves room for both answers after their prompts"
    )]
    NothingPreferred { found: String },
    #[error("sample {number}: {source}")]
    Sample {
        /// 1-based, among the samples that were read.
        number: usize,
        source: Box<DataError>,
    },
    #[error("{key} = {found}: expected {expected}")]
    Setting {
        key: &'static str,
        found: String,
        expected: String,
    },
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

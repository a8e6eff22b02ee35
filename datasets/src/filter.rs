//! Rules that each record has to pass on its own.

mod language;
mod length;
mod matching;
mod python_syntax;
mod repetition;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::scan::{Parsed, scan};
use crate::selection::{Counts, Selection};

pub use language::Language;
pub use length::Length;
pub use matching::Matching;
pub use python_syntax::PythonSyntax;
pub use repetition::Repetition;

/// A rule as the recipe has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    Length(Length),
    Language(Language),
    Repetition(Repetition),
    Regex(Matching),
    PythonSyntax(PythonSyntax),
}

/// A rule at work: what it has against a text.
type Objection = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl Rule {
    fn kind(&self) -> &'static str {
        match self {
            Self::Length(_) => "length",
            Self::Language(_) => "language",
            Self::Repetition(_) => "repetition",
            Self::Regex(_) => "regex",
            Self::PythonSyntax(_) => "python_syntax",
        }
    }

    /// The column that the rule looks at; all of what a record says when left out.
    fn field(&self) -> Option<&str> {
        match self {
            Self::Length(rule) => rule.field.as_deref(),
            Self::Language(rule) => rule.field.as_deref(),
            Self::Repetition(rule) => rule.field.as_deref(),
            Self::Regex(rule) => rule.field.as_deref(),
            Self::PythonSyntax(rule) => rule.field.as_deref(),
        }
    }

    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::Length(rule) => rule.check(),
            Self::Language(rule) => rule.check(),
            Self::Repetition(rule) => rule.check(),
            Self::Regex(rule) => rule.check(),
            Self::PythonSyntax(_) => Vec::new(),
        }
    }

    fn objection(&self) -> Result<Objection, DataError> {
        Ok(match self.clone() {
            Self::Length(rule) => Box::new(move |text| rule.objection(text)),
            Self::Language(rule) => Box::new(move |text| rule.objection(text)),
            Self::Repetition(rule) => Box::new(move |text| rule.objection(text)),
            Self::Regex(rule) => rule.objection()?,
            Self::PythonSyntax(_) => Box::new(crate::python::objection),
        })
    }
}

/// What rules are called in counts: their kinds, numbered from 1 where a kind comes twice.
fn labels(rules: &[Rule]) -> Vec<String> {
    let of_kind = |kind, among: &[Rule]| among.iter().filter(|rule| rule.kind() == kind).count();
    let label = |(at, rule): (usize, &Rule)| match of_kind(rule.kind(), rules) {
        1 => rule.kind().to_string(),
        _ => format!("{} {}", rule.kind(), of_kind(rule.kind(), &rules[..at]) + 1),
    };
    rules.iter().enumerate().map(label).collect()
}

/// Writes the records of `data` that pass all rules to `name` in `directory`, unchanged and in their order.
///
/// # Errors
/// Data that cannot be read, a disk that is full, and rules that leave nothing; no file is left then.
pub fn filter(
    data: &DataConfig<PathBuf>,
    rules: &[Rule],
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    let objections = rules
        .iter()
        .map(Rule::objection)
        .collect::<Result<Vec<_>, _>>()?;
    let judge = |parsed: &Parsed| {
        let whole = parsed.text(None)?.unwrap_or_default();
        for (number, (rule, objection)) in rules.iter().zip(&objections).enumerate() {
            let of_field = match rule.field() {
                Some(field) => parsed.text(Some(field))?.unwrap_or_default(),
                None => String::new(),
            };
            let text = if rule.field().is_some() {
                &of_field
            } else {
                &whole
            };
            if let Some(detail) = objection(text) {
                return Ok(Some((number, detail, text.clone())));
            }
        }
        Ok(None)
    };
    let mut selection = Selection::new(directory, name, &labels(rules))?;
    scan(data, judge, |record, found| match found {
        Err(reason) => selection.unusable(record, reason),
        Ok(None) => selection.keep(record),
        Ok(Some((rule, detail, text))) => selection.drop(record, rule, &detail, &text),
    })?;
    selection.finish()
}

//! Rules that each record has to pass on its own.

mod executes;
mod language;
mod length;
mod matching;
mod python_syntax;
mod repetition;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::scan::{Parsed, scan};
use crate::selection::{Counts, Selection};

pub use executes::Executes;
pub use language::Language;
pub use length::Length;
pub use matching::Matching;
pub use python_syntax::PythonSyntax;
pub use repetition::Repetition;

/// A rule as the recipe has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Texts that are too short or too long.
    Length(Length),
    /// Texts in other languages.
    Language(Language),
    /// Texts that repeat themselves, by the measures of Gopher (arXiv 2112.11446).
    Repetition(Repetition),
    /// Texts that match a regular expression, or do not.
    Regex(Matching),
    /// Texts that are no Python.
    PythonSyntax(PythonSyntax),
    /// Python that fails when it is run in the sandbox.
    Executes(Executes),
}

/// A rule at work: what it has against a text.
type Objection = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;
/// The same where finding it out can fail.
type Trial<'a> = Box<dyn Fn(&str) -> Result<Option<String>, DataError> + Send + Sync + 'a>;

/// Runs the program of a text, and then what else is given, by the settings of a rule: what came of it, if it did not come
/// to its end.
pub type Run<'a> =
    &'a (dyn Fn(&Executes, &str, &str) -> Result<Option<String>, String> + Send + Sync);

impl Rule {
    fn kind(&self) -> &'static str {
        match self {
            Self::Length(_) => "length",
            Self::Language(_) => "language",
            Self::Repetition(_) => "repetition",
            Self::Regex(_) => "regex",
            Self::PythonSyntax(_) => "python_syntax",
            Self::Executes(_) => "executes",
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
            Self::Executes(rule) => rule.field.as_deref(),
        }
    }

    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::Length(rule) => rule.check(),
            Self::Language(rule) => rule.check(),
            Self::Repetition(rule) => rule.check(),
            Self::Regex(rule) => rule.check(),
            // Of programs whoever runs them knows what is possible.
            Self::PythonSyntax(_) | Self::Executes(_) => Vec::new(),
        }
    }

    fn trial<'a>(&self, run: Run<'a>) -> Result<Trial<'a>, DataError> {
        Ok(match self.clone() {
            Self::Length(rule) => Box::new(move |text| Ok(rule.objection(text))),
            Self::Language(rule) => Box::new(move |text| Ok(rule.objection(text))),
            Self::Repetition(rule) => Box::new(move |text| Ok(rule.objection(text))),
            Self::Regex(rule) => {
                let objection = rule.objection()?;
                Box::new(move |text| Ok(objection(text)))
            }
            Self::PythonSyntax(_) => Box::new(|text| Ok(crate::python::objection(text))),
            Self::Executes(rule) => Box::new(move |text| match rule.program(text) {
                None => Ok(Some("no Python".into())),
                Some((code, after)) => run(&rule, &code, after).map_err(DataError::Run),
            }),
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

/// Writes the records of `data` that pass all rules to `name` in `directory`, unchanged and in their order. `run` is for the
/// rule `executes`, and is called from several threads at a time.
///
/// # Errors
/// Data that cannot be read, a disk that is full, and rules that leave nothing; no file is left then.
pub fn filter(
    data: &DataConfig<PathBuf>,
    rules: &[Rule],
    run: Run,
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    let trials = rules
        .iter()
        .map(|rule| rule.trial(run))
        .collect::<Result<Vec<_>, _>>()?;
    let judge = |parsed: &Parsed| {
        let whole = parsed.text(None)?.unwrap_or_default();
        for (number, (rule, trial)) in rules.iter().zip(&trials).enumerate() {
            let of_field = match rule.field() {
                Some(field) => parsed.text(Some(field))?.unwrap_or_default(),
                None => String::new(),
            };
            let text = if rule.field().is_some() {
                &of_field
            } else {
                &whole
            };
            if let Some(detail) = trial(text)? {
                return Ok(Some((number, detail, text.clone())));
            }
        }
        Ok(None)
    };
    let mut selection = Selection::new(directory, name, &labels(rules))?;
    scan(data, judge, |record, found| match found {
        Err(reason) => selection.unusable(record, reason),
        Ok(None) => selection.keep(record),
        Ok(Some((rule, detail, text))) => {
            if let Rule::Executes(_) = rules[rule] {
                selection.count_reason(rule, &detail);
            }
            selection.drop(record, rule, &detail, &text)
        }
    })?;
    selection.finish()
}

//! The texts that a recipe is read from (its file and the `--set` flags) as one tree of values
//! that know their places.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::Problem;
use super::secret::{self, masked, secrets};

/// A value and the bytes that it stands in.
#[derive(Clone, Debug)]
pub struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Node {
    /// A table that stands in no text.
    pub fn of_strings(keys: &[(&str, &str)]) -> Self {
        let node = |value| Self { span: 0..0, value };
        let entry = |(key, text): &(&str, &str)| Entry {
            key: key.to_string(),
            key_span: 0..0,
            node: node(Value::String(text.to_string())),
        };
        node(Value::Table(keys.iter().map(entry).collect()))
    }

    pub fn table(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn string(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.table()?.iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The span of the value under a dotted path (`stage.2.optimizer.lr`, list items by number),
    /// or of the closest thing around it that exists.
    pub fn locate(&self, path: &str) -> Range<usize> {
        let mut here = self;
        let mut span = self.span.clone();
        for step in path.split('.').filter(|step| !step.is_empty()) {
            let next = match &here.value {
                Value::Array(items) => (step.parse().ok())
                    .and_then(|i: usize| items.get(i))
                    .map(|item| (item, &item.span)),
                Value::Table(_) => here.entry(step).map(|entry| match entry.node.value {
                    Value::Table(_) => (&entry.node, &entry.key_span),
                    _ => (&entry.node, &entry.node.span),
                }),
                _ => None,
            };
            let Some((node, place)) = next else { break };
            (here, span) = (node, place.clone());
        }
        span
    }
}

/// One text and where it begins in the document.
struct Segment {
    /// The text is shown after it where it is a flag's.
    label: String,
    is_flag: bool,
    text: String,
    start: usize,
}

/// All the texts, their spans counted through.
#[derive(Default)]
pub struct Document {
    segments: Vec<Segment>,
}

impl Document {
    /// Adds a text and reads it as a TOML document.
    pub fn parse(&mut self, label: &str, text: &str) -> Result<Node, Problem> {
        let start = self.add(label, text, false);
        parse_at(start, text)
    }

    /// Adds the value of a flag and returns where it starts.
    pub fn add_flag(&mut self, flag: &str, text: &str) -> usize {
        self.add(flag, text, true)
    }

    /// The text of the recipe's file.
    pub fn file(&self) -> &str {
        (self.segments.first()).map_or("", |segment| segment.text.as_str())
    }

    fn add(&mut self, label: &str, text: &str, is_flag: bool) -> usize {
        let start = (self.segments.last()).map_or(0, |s| s.start + s.text.len() + 1);
        self.segments.push(Segment {
            label: label.to_string(),
            is_flag,
            text: text.to_string(),
            start,
        });
        start
    }

    /// Binds a problem to its place in the text. What is secret there is neither shown nor repeated.
    pub fn error(&self, mut problem: Problem) -> RecipeError {
        let place = problem.span.as_ref().and_then(|span| self.place(span));
        if let Some(span) = &problem.span
            && let Some(segment) = self.segment(span)
        {
            let here = span.start - segment.start..span.end.saturating_sub(segment.start);
            let touches =
                |secret: &Range<usize>| secret.start <= here.end && here.start <= secret.end;
            for secret in secrets(&segment.text).into_iter().filter(touches) {
                problem.message = problem.message.replace(&segment.text[secret], "***");
                problem.hint = Some(secret::HINT.to_string());
            }
        }
        RecipeError { problem, place }
    }

    fn segment(&self, span: &Range<usize>) -> Option<&Segment> {
        self.segments.iter().rev().find(|s| s.start <= span.start)
    }

    pub fn line_of(&self, span: &Range<usize>) -> Option<String> {
        self.place(span)
            .map(|place| format!("{}:{}", place.label, place.line))
    }

    fn place(&self, span: &Range<usize>) -> Option<Place> {
        let segment = self.segment(span)?;
        let text = &masked(&segment.text);
        let offset = (span.start - segment.start).min(text.len());
        let offset = (0..=offset).rev().find(|&i| text.is_char_boundary(i))?;
        let line_start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[offset..].find('\n').map_or(text.len(), |i| offset + i);
        let end = (offset + span.len()).min(line_end);
        let end = (offset..=end).rev().find(|&i| text.is_char_boundary(i))?;
        let label = match segment.is_flag {
            true => format!("{} {text}", segment.label),
            false => segment.label.clone(),
        };
        Some(Place {
            label,
            line: text[..offset].matches('\n').count() + 1,
            before: text[line_start..offset].to_string(),
            marked: text[offset..end].to_string(),
            after: text[end..line_end].trim_end().to_string(),
        })
    }
}

/// Reads a text that starts at `start` of the document.
pub fn parse_at(start: usize, text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|e| shifted(&e, start))?;
    let (span, table) = (table.span(), table.into_inner());
    convert(Spanned::new(span, DeValue::Table(table)), start)
}

fn convert(value: Spanned<DeValue<'_>>, start: usize) -> Result<Node, Problem> {
    let span = value.span().start + start..value.span().end + start;
    let number = |e: toml::de::Error| Problem::new(e.message()).at(span.clone());
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(_) => Value::Integer(
            i64::deserialize(ValueDeserializer::from(value.clone())).map_err(|_| {
                let says =
                    "a whole number lies between -9223372036854775808 and 9223372036854775807";
                Problem::new(says).at(span.clone())
            })?,
        ),
        DeValue::Float(_) => {
            Value::Float(f64::deserialize(ValueDeserializer::from(value.clone())).map_err(number)?)
        }
        DeValue::Datetime(_) => {
            return Err(Problem::new("a recipe has no use for dates").at(span));
        }
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| convert(item.clone(), start))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => {
            let mut entries = Vec::with_capacity(table.len());
            for (key, value) in table {
                entries.push(Entry {
                    key: key.get_ref().to_string(),
                    key_span: key.span().start + start..key.span().end + start,
                    node: convert(value.clone(), start)?,
                });
            }
            entries.sort_by_key(|entry| entry.key_span.start);
            Value::Table(entries)
        }
    };
    Ok(Node { span, value })
}

fn shifted(error: &toml::de::Error, start: usize) -> Problem {
    let span = error.span().unwrap_or(0..0);
    Problem::new(format!("not valid TOML: {}", error.message()))
        .at(span.start + start..span.end + start)
}

/// One line of a text with the marked part.
#[derive(Debug)]
struct Place {
    label: String,
    line: usize,
    before: String,
    marked: String,
    after: String,
}

/// A problem with the line that it is in.
#[derive(Debug)]
pub struct RecipeError {
    pub problem: Problem,
    place: Option<Place>,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            message,
            accepted,
            hint,
            ..
        } = &self.problem;
        write!(f, "{message}")?;
        let mut gutter = 2;
        if let Some(place) = &self.place {
            let line = place.line.to_string();
            gutter = line.len();
            let column = place.before.chars().count() + 1;
            let indent: String = (place.before.chars())
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let carets = "^".repeat(place.marked.chars().count().max(1));
            let text = format!("{}{}{}", place.before, place.marked, place.after);
            write!(f, "\n{:gutter$}--> {}:{line}:{column}", "", place.label)?;
            write!(f, "\n{:gutter$} |\n{line} | {text}", "")?;
            write!(f, "\n{:gutter$} | {indent}{carets}", "")?;
        }
        if !accepted.is_empty() {
            write!(f, "\n{:gutter$} = accepted: {}", "", accepted.join(", "))?;
        }
        if let Some(hint) = hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RecipeError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "seed = 7\n[models.a]\nsource = \"x\"\n[[stage]]\nkind = \"sft\"\n\
                        optimizer = { lr = 1e-3 }\n[[stage]]\nkind = \"eval\"\nmodels = [\"a\", \"b\"]\n";

    fn shown(path: &str) -> String {
        let mut document = Document::default();
        let root = document.parse("r.toml", TEXT).unwrap();
        document
            .error(Problem::new("m").at(root.locate(path)))
            .to_string()
    }

    #[test]
    fn finds_places() {
        assert!(shown("seed").contains("r.toml:1:8\n  |\n1 | seed = 7\n  |        ^"));
        assert!(shown("stage.0.optimizer.lr").contains("r.toml:6:20"));
        assert!(
            shown("stage.1.models.1")
                .ends_with("9 | models = [\"a\", \"b\"]\n  |                ^^^")
        );
    }

    #[test]
    fn a_missing_key_is_shown_at_its_table() {
        assert!(
            shown("stage.1.window").contains("r.toml:7:1\n"),
            "{}",
            shown("stage.1.window")
        );
        assert!(
            shown("models.a.format").contains("r.toml:2:9\n"),
            "{}",
            shown("models.a.format")
        );
        assert!(shown("stage.0.optimizer.eps").contains("r.toml:6:1\n"));
    }

    #[test]
    fn broken_toml_and_odd_characters_are_placed() {
        let mut document = Document::default();
        document.parse("first", "a = 1").unwrap();
        let problem = document
            .parse("r.toml", "ü = 1\n\tname = \"é\n")
            .unwrap_err();
        let text = document.error(problem).to_string();
        assert!(text.starts_with("not valid TOML"), "{text}");
        assert!(text.contains("--> r.toml:"), "{text}");
    }
}

//! What is wrong in a recipe, and how it is shown: the place, a caret, the accepted names, a hint.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Expected, Unexpected};

/// Something wrong at a place, not yet bound to the text that the place is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub span: Option<Range<usize>>,
    pub message: String,
    /// The names that would have been right.
    pub accepted: Vec<String>,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            span: None,
            message: message.into(),
            accepted: Vec::new(),
            hint: None,
        }
    }

    pub fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// Sets the place unless a closer one is known.
    pub fn or_at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Lists the accepted names, and suggests the one that `given` is close to.
    pub fn accepting<S: AsRef<str>>(
        mut self,
        given: &str,
        names: impl IntoIterator<Item = S>,
    ) -> Self {
        self.accepted = names.into_iter().map(|n| n.as_ref().to_string()).collect();
        if let Some(near) = closest(given, &self.accepted) {
            self.hint = Some(format!("did you mean `{near}`?"));
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    /// A last line `hint: …` of the message becomes the problem's hint.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.split_once("\nhint: ") {
            Some((message, hint)) => Self::new(message).hint(hint),
            None => Self::new(text),
        }
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}, found {}",
            plain(&expected.to_string()),
            plain(&found.to_string())
        ))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(found: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {found} elements"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown key `{field}`")).accepting(field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown value `{variant}`")).accepting(variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing key `{field}`"))
    }
}

/// Serde's words for types, in the words of a recipe's author.
fn plain(expected: &str) -> String {
    match expected {
        "u8" => whole(u8::MIN, u8::MAX),
        "u16" => whole(u16::MIN, u16::MAX),
        "u32" => whole(u32::MIN, u32::MAX),
        "i8" => whole(i8::MIN, i8::MAX),
        "i16" => whole(i16::MIN, i16::MAX),
        "i32" => whole(i32::MIN, i32::MAX),
        // All that TOML can write.
        "u64" | "usize" => "a whole number, zero or more".into(),
        "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" | "sequence" => "a list".into(),
        "map" => "a table".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.starts_with("internally tagged enum ") => {
            "a table with the key `kind`".into()
        }
        other => match other.split_once(" `") {
            Some(("integer" | "floating point", value)) => format!("`{value}"),
            Some(("boolean", value)) => format!("`{value}"),
            _ => other.to_string(),
        },
    }
}

fn whole(least: impl fmt::Display, most: impl fmt::Display) -> String {
    format!("a whole number from {least} to {most}")
}

/// The name nearest to `given`, if one is near: up to a third of its letters may differ.
pub fn closest<'a>(given: &str, names: &'a [String]) -> Option<&'a str> {
    let allowed = (given.chars().count() / 3).max(1);
    names
        .iter()
        .map(|name| (edit_distance(given, name), name.as_str()))
        .filter(|&(distance, name)| distance <= allowed && distance < name.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// Levenshtein distance, where two swapped neighbours count as one edit.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, distance) in [
            ("steps", "steps", 0),
            ("stpes", "steps", 1),
            ("step", "steps", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let names = ["steps", "epochs", "lr"].map(String::from);
        assert_eq!(closest("stepz", &names), Some("steps"));
        assert_eq!(closest("epoch", &names), Some("epochs"));
        assert_eq!(closest("temperature", &names), None);
        assert_eq!(closest("xy", &names), None);
    }
}

//! Keys in words, and tables of keys.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Book;
use crate::schema::{Key, example, in_toml, names};

impl Book<'_> {
    pub(super) fn text(&self, group: &[&Key]) -> String {
        let key = group[0];
        let mut text = format!("{}{}\n", key.dotted(), of_choices(key));
        if let Some(says) = key.schema["description"].as_str() {
            for line in wrapped(says, 96) {
                let _ = writeln!(text, "  {line}");
            }
        }
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<9} {value}");
        };
        if !key.is_stage() {
            line("type", self.accepted(key));
            match &key.schema["default"] {
                Value::Null if key.is_required => line("required", "yes".into()),
                Value::Null => {}
                default => line("default", in_toml(default)),
            }
        }
        let names = names(&key.schema, self.definitions);
        let widest = names
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (i, (name, says)) in names.iter().enumerate() {
            let title = if i == 0 { "accepted" } else { "" };
            let says = says.as_deref().unwrap_or_default();
            line(
                title,
                format!(
                    "{:<width$}  {says}",
                    in_toml(&json!(name)),
                    width = widest + 2
                )
                .trim_end()
                .into(),
            );
        }
        if let Some((recipe, shown)) = group.iter().find_map(|key| example(key)) {
            line("example", format!("{shown}   (recipes/{recipe}.toml)"));
        }
        for (i, other) in group[1..].iter().enumerate() {
            let title = if i == 0 { "also in" } else { "" };
            line(title, format!("{}{}", other.dotted(), of_choices(other)));
        }
        let inner = self.inner(key);
        if !inner.is_empty() {
            text.push('\n');
            text += &self.table(&inner);
        }
        text
    }

    /// `key  type  default  meaning`, a line each.
    fn table(&self, keys: &[(&Key, Vec<&str>)]) -> String {
        let rows: Vec<[String; 4]> = keys
            .iter()
            .map(|(key, choices)| {
                let default = match &key.schema["default"] {
                    Value::Null if key.is_required => "required".into(),
                    Value::Null => "-".into(),
                    Value::Object(_) | Value::Array(_) => "…".into(),
                    default => in_toml(default),
                };
                let says = key.schema["description"].as_str().unwrap_or_default();
                let first = says
                    .split_inclusive(". ")
                    .next()
                    .unwrap_or_default()
                    .trim_end();
                let says = match choices.is_empty() {
                    true => first.to_string(),
                    false => format!("{first} [{}]", choices.join(", ")),
                };
                [key.name().to_string(), self.accepted(key), default, says]
            })
            .collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let (name, kind, default) = (width(0), width(1), width(2));
        let mut text = String::new();
        for [key, accepted, value, says] in &rows {
            let line = format!("  {key:<name$}  {accepted:<kind$}  {value:<default$}  {says}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    pub(super) fn sections(&self) -> String {
        let sections: Vec<(&Key, Vec<&str>)> = (self.all.iter())
            .filter(|key| key.path.len() == 1)
            .map(|key| (key, Vec::new()))
            .collect();
        let mut text = format!(
            "sections of a recipe\n{}\nkinds of stages\n",
            self.table(&sections)
        );
        let stages: Vec<&Key> = self
            .all
            .iter()
            .filter(|key| key.is_stage() && key.name() != "kind")
            .collect();
        let width = stages.iter().map(|key| key.name().len()).max().unwrap_or(0);
        for key in stages {
            let says = key.schema["description"].as_str().unwrap_or_default();
            let _ = writeln!(text, "  {:<width$}  {says}", key.name());
        }
        text + "\nnext: distill explain distill\n      distill explain data.chunk\n"
    }
}

/// ` (task = mmlu)`
fn of_choices(key: &Key) -> String {
    let choices = key
        .choices
        .iter()
        .map(|(tag, name)| format!("{tag} = {name}"));
    let choices: Vec<String> = choices.collect();
    match choices.is_empty() {
        true => String::new(),
        false => format!("  ({})", choices.join(", ")),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let length = lines[last].chars().count();
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(word.to_string());
        } else {
            lines[last] += if length > 0 { " " } else { "" };
            lines[last] += word;
        }
    }
    lines
}

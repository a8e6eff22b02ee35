//! `distill explain`: keys of recipes, from the schema.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Map, Value, json};

use crate::cli::ExplainArgs;
use crate::recipe::closest;
use crate::schema::{Key, UnknownKey, accepted, example, in_toml, keys, names, recipe_schema};

pub fn run(arguments: ExplainArgs) -> anyhow::Result<()> {
    let schema = recipe_schema();
    let all = keys(&schema);
    let nothing = Map::new();
    let definitions = schema["definitions"].as_object().unwrap_or(&nothing);
    let book = Book {
        all: &all,
        definitions,
    };
    let groups = match arguments.key.as_deref() {
        Some(key) => book.meant(key)?,
        None => Vec::new(),
    };
    let text = match (arguments.json, groups.is_empty()) {
        (true, true) => {
            let sections = all.iter().filter(|key| key.path.len() == 1);
            pretty(sections.map(|key| book.json(&[key])).collect())?
        }
        (true, false) => pretty(groups.iter().map(|group| book.json(group)).collect())?,
        (false, true) => book.sections(),
        (false, false) => {
            let texts: Vec<String> = groups.iter().map(|group| book.text(group)).collect();
            texts.join("\n")
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn pretty(list: Vec<Value>) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

const NO_HINT: &str =
    "`distill explain` alone lists the sections of a recipe and the kinds of stages";

struct Book<'a> {
    all: &'a [Key],
    definitions: &'a Map<String, Value>,
}

impl<'a> Book<'a> {
    /// The keys that can be meant. Those that are the same in several places are one group.
    fn meant(&self, key: &str) -> Result<Vec<Vec<&'a Key>>, UnknownKey> {
        let words: Vec<&str> = key.split('.').filter(|word| !word.is_empty()).collect();
        let groups = self.groups(&words);
        if !groups.is_empty() {
            return Ok(groups);
        }
        // As `--set` has it: `stage.student.steps`, where `student` is a name of the recipe's own.
        let groups = match words.as_slice() {
            [section @ ("stage" | "data" | "models"), _, inner @ ..] if !inner.is_empty() => {
                self.groups(&[&[*section], inner].concat())
            }
            _ => Vec::new(),
        };
        match groups.is_empty() {
            true => Err(self.unknown(key, &words)),
            false => Ok(groups),
        }
    }

    fn groups(&self, words: &[&str]) -> Vec<Vec<&'a Key>> {
        let mut groups: Vec<Vec<&Key>> = Vec::new();
        for key in self.all.iter().filter(|key| key.is_meant(words)) {
            match groups.iter_mut().find(|group| self.is_same(group[0], key)) {
                Some(group) => group.push(key),
                None => groups.push(vec![key]),
            }
        }
        groups
    }

    fn is_same(&self, a: &Key, b: &Key) -> bool {
        let same = |key: &str| a.schema[key] == b.schema[key];
        same("description") && same("default") && self.accepted(a) == self.accepted(b)
    }

    fn unknown(&self, key: &str, words: &[&str]) -> UnknownKey {
        let mut known: Vec<String> = self.all.iter().map(|key| key.name().to_string()).collect();
        known.sort();
        known.dedup();
        let last = &words.last().copied().unwrap_or_default().to_lowercase();
        let is_known = known.iter().any(|name| name == last);
        let hint = match closest(last, &known) {
            _ if is_known => {
                let places = self.all.iter().filter(|key| key.name() == last);
                let mut places: Vec<String> = places.map(Key::dotted).collect();
                places.dedup();
                format!("`{last}` stands in {}", places.join(", "))
            }
            Some(near) => format!("did you mean `{near}`?"),
            None if last.is_empty() => NO_HINT.to_string(),
            None => {
                let phrase = last.replace(['_', '-'], " ").to_lowercase();
                let speaks = |key: &&Key| {
                    let says = key.schema["description"].as_str().unwrap_or_default();
                    let says = says.to_lowercase();
                    let mut said =
                        says.split(|letter: char| !letter.is_alphanumeric() && letter != ' ');
                    phrase.len() > 2
                        && said.any(|said| format!(" {said} ").contains(&format!(" {phrase} ")))
                };
                let mut about: Vec<&str> = self.all.iter().filter(speaks).map(Key::name).collect();
                about.sort();
                about.dedup();
                match about.as_slice() {
                    [] => NO_HINT.to_string(),
                    about => format!("of this speak: {}", about.join(", ")),
                }
            }
        };
        UnknownKey {
            key: key.to_string(),
            hint,
        }
    }

    fn accepted(&self, key: &Key) -> String {
        match key.is_stage() {
            true => "a table".into(),
            false => accepted(&key.schema, self.definitions),
        }
    }

    /// The keys of a table, each once, with the choices that it belongs to.
    fn inner(&self, table: &Key) -> Vec<(&'a Key, Vec<&'a str>)> {
        let depth = table.path.len();
        let below = |key: &&Key| key.path.len() == depth + 1 && key.path.starts_with(&table.path);
        let mut found: Vec<(&Key, Vec<&str>)> = Vec::new();
        for key in self
            .all
            .iter()
            .filter(below)
            .filter(|_| depth > 1 || table.path[0] != "stage")
        {
            let chosen = key.choices.last().map(|(_, name)| name.as_str());
            match found
                .iter_mut()
                .find(|(known, _)| known.name() == key.name() && self.is_same(known, key))
            {
                Some((_, names)) => names.extend(chosen),
                None => found.push((key, chosen.into_iter().collect())),
            }
        }
        // What belongs to all choices needs no mention of them.
        let tags = found
            .iter()
            .filter_map(|(key, _)| key.schema["enum"].as_array().map(Vec::len));
        let choices = tags.max().unwrap_or(0);
        for (_, names) in &mut found {
            if names.len() == choices {
                names.clear();
            }
        }
        found
    }

    fn text(&self, group: &[&Key]) -> String {
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

    fn sections(&self) -> String {
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

    fn json(&self, group: &[&Key]) -> Value {
        let key = group[0];
        let places = |key: &&Key| {
            let choices = key
                .choices
                .iter()
                .map(|(tag, name)| (tag.clone(), json!(name)));
            json!({ "key": key.dotted(), "choices": choices.collect::<Map<_, _>>() })
        };
        let names = names(&key.schema, self.definitions).into_iter();
        let names: Vec<Value> = names
            .map(|(name, says)| json!({ "name": name, "description": says }))
            .collect();
        let shown = group.iter().find_map(|key| example(key));
        json!({
            "key": key.dotted(),
            "description": key.schema["description"],
            "type": self.accepted(key),
            "required": key.is_required,
            "default": key.schema["default"],
            "accepted": names,
            "example": shown.map(|(recipe, text)| json!({ "recipe": recipe, "text": text })),
            "places": group.iter().map(places).collect::<Vec<_>>(),
            "keys": self.inner(key).iter().map(|(key, _)| key.name()).collect::<Vec<_>>(),
        })
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

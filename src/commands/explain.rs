//! `distill explain`: keys of recipes, from the schema.

mod meant;
mod text;

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::cli::ExplainArgs;
use crate::schema::{Key, accepted, example, keys, names, recipe_schema};

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

struct Book<'a> {
    all: &'a [Key],
    definitions: &'a Map<String, Value>,
}

impl Book<'_> {
    fn accepted(&self, key: &Key) -> String {
        match key.is_stage() {
            true => "a table".into(),
            false => accepted(&key.schema, self.definitions),
        }
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

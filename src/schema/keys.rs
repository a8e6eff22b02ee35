//! Every key that a recipe can have, with where it stands.

use serde_json::{Map, Value, json};

use super::references::{name, target};
use crate::recipe::KIND;

/// A key and what the schema says of it.
#[derive(Clone, Debug)]
pub struct Key {
    /// `["stage", "sft", "schedule", "warmup_steps"]`, of a kind of stage its name alone.
    pub path: Vec<String>,
    /// What its table was chosen by, below a stage's kind: `("kind", "cosine")`.
    pub choices: Vec<(String, String)>,
    pub schema: Value,
    pub is_required: bool,
}

impl Key {
    pub fn name(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    pub fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// Whether `sft.lr` or `loss.jsd.beta` can mean it: these words in this order, the last one its own.
    pub fn is_meant(&self, words: &[&str]) -> bool {
        let Some((last, before)) = words.split_last() else {
            return false;
        };
        let outer = self.path.iter().take(self.path.len() - 1);
        let chosen = self.choices.iter().map(|(_, name)| name);
        let mut outer = outer.chain(chosen);
        self.name() == *last && before.iter().all(|word| outer.any(|name| name == word))
    }

    /// Whether it is a kind of stage.
    pub fn is_stage(&self) -> bool {
        self.path.len() == 2 && self.path[0] == "stage"
    }
}

/// In the order of the schema. Presets hold the same keys once more and are left out.
pub fn keys(schema: &Value) -> Vec<Key> {
    let nothing = Map::new();
    let definitions = schema["definitions"].as_object().unwrap_or(&nothing);
    let mut walk = Walk {
        definitions,
        found: Vec::new(),
    };
    walk.table(schema, &[], &[]);
    walk.found
}

type Choices = [(String, String)];

struct Walk<'a> {
    definitions: &'a Map<String, Value>,
    found: Vec<Key>,
}

/// A table of which one is chosen by a key, the name that stands there for it, and the table.
struct Variant<'a> {
    tag: &'a str,
    name: &'a str,
    table: &'a Value,
}

impl<'a> Walk<'a> {
    fn table(&mut self, schema: &'a Value, path: &[String], choices: &Choices) {
        let required = schema["required"].as_array();
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            if schema["const"].is_string() {
                continue;
            }
            let path = [path, std::slice::from_ref(key)].concat();
            self.found.push(Key {
                path: path.clone(),
                choices: choices.to_vec(),
                schema: target(schema, self.definitions).clone(),
                is_required: required.is_some_and(|keys| keys.contains(&json!(key))),
            });
            if key != "preset" {
                self.inside(schema, &path, choices);
            }
        }
    }

    /// The tables that a value is made of.
    fn inside(&mut self, schema: &'a Value, path: &[String], choices: &Choices) {
        let schema = target(schema, self.definitions);
        for inner in [&schema["items"], &schema["additionalProperties"]] {
            if inner.is_object() {
                self.inside(inner, path, choices);
            }
        }
        let Some(options) = schema["anyOf"].as_array() else {
            return self.table(schema, path, choices);
        };
        let variants: Vec<Variant> = options.iter().filter_map(|one| self.variant(one)).collect();
        if !variants.is_empty() {
            self.tag(&variants, path, choices);
        }
        for Variant { tag, name, table } in &variants {
            if path == ["stage"] {
                let path = [path, &[name.to_string()]].concat();
                self.found.push(Key {
                    path: path.clone(),
                    choices: Vec::new(),
                    schema: (*table).clone(),
                    is_required: false,
                });
                self.inside(table, &path, choices);
                continue;
            }
            let mut choices = choices.to_vec();
            if variants.len() > 1 {
                choices.push((tag.to_string(), name.to_string()));
            }
            self.table(table, path, &choices);
        }
        for option in options {
            if self.variant(option).is_none() {
                self.inside(option, path, choices);
            }
        }
    }

    fn variant(&self, option: &'a Value) -> Option<Variant<'a>> {
        let (_, name) = name(option)?.rsplit_once('.')?;
        let table = target(option, self.definitions);
        let mut keys = table["properties"].as_object().into_iter().flatten();
        let tag = match keys.find(|(key, schema)| schema["const"] == name && *key != KIND) {
            Some((tag, _)) => tag,
            None => KIND,
        };
        Some(Variant { tag, name, table })
    }

    /// The key that chooses.
    fn tag(&mut self, variants: &[Variant], path: &[String], choices: &Choices) {
        let names: Vec<&str> = variants.iter().map(|variant| variant.name).collect();
        let said = variants
            .iter()
            .map(|variant| variant.table["description"].clone());
        let said: Vec<Value> = said.collect();
        let tag = variants[0].tag;
        let own = variants[0].table["properties"][tag]["description"].as_str();
        let says = own.unwrap_or("Which of these: it decides what other keys there are.");
        let schema = json!({
            "description": says,
            "type": "string",
            "enum": names,
            "x-taplo": { "docs": { "enumValues": said } },
        });
        self.found.push(Key {
            path: [path, &[tag.to_string()]].concat(),
            choices: choices.to_vec(),
            schema,
            is_required: names.len() > 1,
        });
    }
}

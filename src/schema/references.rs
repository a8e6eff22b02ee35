//! References to definitions.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{DEFINITIONS, PRESET};

/// The name that a schema refers to.
pub fn name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix(DEFINITIONS)
}

/// What a schema refers to, or itself.
pub fn target<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    name(schema)
        .and_then(|name| definitions.get(name))
        .unwrap_or(schema)
}

/// Draft 7 knows nothing beside a `$ref`: where something stands there, the definition is written out. Then definitions that
/// are alike become one, and those that nothing refers to go.
pub fn settle(root: &Value, definitions: &mut Map<String, Value>) {
    let all = definitions.clone();
    definitions
        .values_mut()
        .for_each(|one| write_out(one, &all));
    while let Some((copy, original)) = alike(definitions) {
        definitions.remove(&copy);
        definitions
            .values_mut()
            .for_each(|one| rename(one, &copy, &original));
    }
    let mut used = BTreeSet::new();
    follow(root, definitions, &mut used);
    definitions.retain(|name, _| used.contains(name));
}

fn write_out(schema: &mut Value, all: &Map<String, Value>) {
    if let Some(definition) = name(schema).and_then(|name| all.get(name))
        && let Value::Object(beside) = &mut *schema
        && beside.len() > 1
    {
        let mut whole = definition.clone();
        beside.remove("$ref");
        for (key, value) in std::mem::take(beside) {
            whole[key] = value;
        }
        *schema = whole;
    }
    match schema {
        Value::Object(inner) => inner.values_mut().for_each(|one| write_out(one, all)),
        Value::Array(inner) => inner.iter_mut().for_each(|one| write_out(one, all)),
        _ => {}
    }
}

/// A definition of presets that is the recipe's own.
fn alike(definitions: &Map<String, Value>) -> Option<(String, String)> {
    definitions.iter().find_map(|(name, schema)| {
        let original = name.strip_prefix(PRESET)?;
        (definitions.get(original)? == schema).then(|| (name.clone(), original.to_string()))
    })
}

fn rename(schema: &mut Value, from: &str, to: &str) {
    if name(schema) == Some(from) {
        schema["$ref"] = Value::String(format!("{DEFINITIONS}{to}"));
    }
    match schema {
        Value::Object(inner) => inner.values_mut().for_each(|one| rename(one, from, to)),
        Value::Array(inner) => inner.iter_mut().for_each(|one| rename(one, from, to)),
        _ => {}
    }
}

fn follow(schema: &Value, definitions: &Map<String, Value>, used: &mut BTreeSet<String>) {
    if let Some(name) = name(schema)
        && let Some(definition) = definitions.get(name)
        && used.insert(name.to_string())
    {
        follow(definition, definitions, used);
    }
    match schema {
        Value::Object(inner) => inner
            .values()
            .for_each(|one| follow(one, definitions, used)),
        Value::Array(inner) => inner.iter().for_each(|one| follow(one, definitions, used)),
        _ => {}
    }
}

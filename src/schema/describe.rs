//! What a schema accepts, in words.

use serde_json::{Map, Value};

use super::references::target;

/// "a whole number, 1 to 4096"
pub fn accepted(schema: &Value, definitions: &Map<String, Value>) -> String {
    let mut words = types(schema, definitions).join(" or ");
    let bound = |key: &str| schema[key].as_f64();
    // The end of a type is no limit that anybody meets.
    let is_meant = |most: &f64| ![u32::MAX.into(), f32::MAX.into()].contains(most);
    let ends = [
        ("at least", bound("minimum")),
        ("above", bound("exclusiveMinimum")),
        ("at most", bound("maximum").filter(is_meant)),
        ("below", bound("exclusiveMaximum")),
    ];
    match ends {
        [(_, Some(least)), _, (_, Some(most)), _] => {
            words += &format!(", {} to {}", number(least), number(most));
        }
        _ => {
            for (word, end) in ends {
                words.extend(end.map(|end| format!(", {word} {}", number(end))));
            }
        }
    }
    words
}

/// As short as it can be read.
fn number(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(1e-6..1e15).contains(&size) => format!("{value:e}"),
        _ => value.to_string(),
    }
}

fn types(schema: &Value, definitions: &Map<String, Value>) -> Vec<String> {
    let schema = target(schema, definitions);
    let mut found: Vec<String> = Vec::new();
    let mut add = |word: String| {
        if !found.contains(&word) {
            found.push(word);
        }
    };
    if let Some(options) = schema["anyOf"].as_array() {
        let options = options.iter().filter(|one| one.is_object());
        options
            .flat_map(|one| types(one, definitions))
            .for_each(&mut add);
        return found;
    }
    match schema["type"].as_str() {
        Some("string") if schema["enum"].is_array() => add("a name".into()),
        Some("string") => add("text".into()),
        Some("integer") => add("a whole number".into()),
        Some("boolean") => add("true or false".into()),
        Some("array") => add(match schema["items"].is_object() {
            true => format!(
                "a list, each {}",
                types(&schema["items"], definitions).join(" or ")
            ),
            false => "a list".into(),
        }),
        Some("number") => add("a number".into()),
        Some(_) => add("a table".into()),
        // What has no type is a number that need not be finite.
        None if schema.get("exclusiveMinimum").is_some() => add("a number".into()),
        None => add("anything".into()),
    }
    found
}

/// The names that are accepted, each with what is said of it.
pub fn names(schema: &Value, definitions: &Map<String, Value>) -> Vec<(String, Option<String>)> {
    let schema = target(schema, definitions);
    let said = &schema["x-taplo"]["docs"]["enumValues"];
    let listed = schema["enum"].as_array().into_iter().flatten().enumerate();
    let mut found: Vec<(String, Option<String>)> = listed
        .filter_map(|(i, name)| {
            Some((
                name.as_str()?.to_string(),
                said[i].as_str().map(String::from),
            ))
        })
        .collect();
    let options = schema["anyOf"].as_array().into_iter().flatten();
    for option in options {
        for (name, said) in names(option, definitions) {
            if found.iter().all(|(known, _)| *known != name) {
                found.push((name, said));
            }
        }
    }
    found
}

/// A default or another value, as TOML in one line.
pub fn in_toml(value: &Value) -> String {
    match value {
        Value::Array(list) => format!(
            "[{}]",
            list.iter().map(in_toml).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(table) if table.is_empty() => "{}".into(),
        Value::Object(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| format!("{key} = {}", in_toml(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

//! Values and tables of which one is chosen: by a name, by the key `kind`, or by the type of the value.
//!
//! `if` and `then` let a validator say what is wrong with the one that is meant. Editors complete by `anyOf`, which has
//! the same once more, and `true` at its end, so that it never has an objection.

use serde_json::{Map, Value, json};

/// The names that an enum without settings accepts.
pub fn values(schema: &Value) -> Vec<String> {
    let alone = schema["const"].as_str().into_iter();
    let listed = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let mut found: Vec<String> = alone.chain(listed).map(String::from).collect();
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        let names = values(one);
        if names.is_empty() {
            return Vec::new();
        }
        found.extend(names);
    }
    found
}

/// What the enum says of one of its names.
pub fn says<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    let mut ones = schema["oneOf"].as_array()?.iter();
    ones.find(|one| one["const"] == name)?["description"].as_str()
}

/// A list of names, each with what is said of it, as taplo shows it.
pub fn names(schema: &Value, names: &[String]) -> Value {
    let mut list = json!({ "type": "string", "enum": names });
    let said: Vec<Option<&str>> = names.iter().map(|name| says(schema, name)).collect();
    if said.iter().any(Option::is_some) {
        list["x-taplo"] = json!({ "docs": { "enumValues": said } });
    }
    list
}

/// A case: what tells it from the others, and its schema.
pub struct Case {
    pub when: Value,
    pub then: Value,
}

/// The schema of the case that holds, or of none.
pub fn chosen(cases: Vec<Case>, otherwise: Value) -> Map<String, Value> {
    let mut shown: Vec<Value> = cases.iter().map(|case| case.then.clone()).collect();
    shown.push(Value::Bool(true));
    let chain = cases.into_iter().rev().fold(
        otherwise,
        |rest, Case { when, then }| json!({ "if": when, "then": then, "else": rest }),
    );
    let mut schema = match chain {
        Value::Object(chain) => chain,
        _ => Map::new(),
    };
    schema.insert("anyOf".into(), Value::Array(shown));
    schema
}

/// The case of a table with this value under the key.
pub fn tagged(key: &str, name: &str, then: Value) -> Case {
    let when =
        json!({ "type": "object", "properties": { key: { "const": name } }, "required": [key] });
    Case { when, then }
}

//! Defaults as a recipe writes them.

use serde_json::{Map, Number, Value, json};

use super::references::target;
use crate::recipe::KIND;

pub fn as_written(definitions: &mut Map<String, Value>) {
    let all = definitions.clone();
    definitions
        .values_mut()
        .for_each(|schema| rewrite(schema, &all));
}

fn rewrite(schema: &mut Value, all: &Map<String, Value>) {
    let is_schema = !schema["type"].is_null() || schema["anyOf"].is_array();
    if is_schema && !schema["default"].is_null() {
        schema["default"] = written(&schema["default"], schema, all);
    }
    match schema {
        Value::Object(inner) => inner.values_mut().for_each(|one| rewrite(one, all)),
        Value::Array(inner) => inner.iter_mut().for_each(|one| rewrite(one, all)),
        _ => {}
    }
}

fn written(value: &Value, schema: &Value, all: &Map<String, Value>) -> Value {
    match value {
        Value::Object(table) => {
            let options = schema["anyOf"].as_array().into_iter().flatten();
            let tables = options.map(|option| target(option, all));
            let only = table.iter().next().filter(|_| table.len() == 1);
            let variant = only.and_then(|(name, inner)| {
                let mut tables = tables.clone();
                let variant = tables.find(|one| one["properties"][KIND]["const"] == **name)?;
                Some((name, inner, variant))
            });
            let (mut found, inner, schema) = match variant {
                Some((name, inner, schema)) => (
                    Map::from_iter([(KIND.to_string(), json!(name))]),
                    inner,
                    schema,
                ),
                None => (Map::new(), value, schema),
            };
            for (key, value) in inner.as_object().into_iter().flatten() {
                if !value.is_null() {
                    let schema = target(&schema["properties"][key], all);
                    found.insert(key.clone(), written(value, schema, all));
                }
            }
            Value::Object(found)
        }
        Value::Array(list) => list.iter().map(|one| written(one, schema, all)).collect(),
        Value::Number(number) => Value::Number(shortest(number)),
        other => other.clone(),
    }
}

/// An `f32` has more digits as an `f64` than anybody wrote.
fn shortest(number: &Number) -> Number {
    let short = || {
        let value = number.as_f64().filter(|_| number.is_f64())?;
        let narrow = value as f32;
        let is_narrow = f64::from(narrow) == value;
        is_narrow.then(|| Number::from_f64(narrow.to_string().parse().ok()?))?
    };
    short().unwrap_or_else(|| number.clone())
}

//! The stages: each kind's table is made of the structs that its reader takes from it.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::choice::{says, values};
use super::references::target;
use crate::recipe::{Action, KIND, Stage};

/// One of the stages, as an enum of tables that hold their `kind`.
pub fn stages(generator: &mut SchemaGenerator) -> Value {
    let kinds = Action::KINDS.iter().map(|kind| stage(generator, kind));
    json!({ "oneOf": kinds.collect::<Vec<Value>>() })
}

/// A kind of stage. Where a key decides which others there are (the task of an evaluation), one of several tables.
fn stage(generator: &mut SchemaGenerator, kind: &str) -> Value {
    let common = table(generator, &[(KIND, kind)]);
    let Some(keys) = common["properties"].as_object() else {
        return common;
    };
    for (key, schema) in keys {
        let schema = target(schema, generator.definitions()).clone();
        let decided = values(&schema);
        let takes = |tags: &[(&str, &str)]| Stage::schemas(tags).len();
        let decides =
            |value: &String| takes(&[(KIND, kind), (key, value)]) > takes(&[(KIND, kind)]);
        if key == KIND || !decided.iter().any(decides) {
            continue;
        }
        let tables = decided.iter().map(|value| {
            let mut table = table(generator, &[(KIND, kind), (key, value)]);
            if let Some(says) = says(&schema, value) {
                table["description"] = json!(says);
            }
            table
        });
        let tables: Vec<Value> = tables.collect();
        return json!({ "description": common["description"], "properties": { KIND: { "const": kind } }, "required": [KIND], "oneOf": tables });
    }
    common
}

/// The keys of all structs together that a stage with these tags is read into.
fn table(generator: &mut SchemaGenerator, tags: &[(&str, &str)]) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (key, value) in tags {
        properties.insert(key.to_string(), json!({ "const": value }));
        required.push(json!(key));
    }
    let mut says = None;
    for (number, part) in Stage::schemas(tags).into_iter().enumerate() {
        let part = part(generator).to_value();
        // What all stages have comes first, what the kind is for with its own keys.
        if number > 0 && says.is_none() {
            says = part["description"].as_str().map(String::from);
        }
        for (key, schema) in part["properties"].as_object().into_iter().flatten() {
            let tag = tags.iter().find(|(tag, _)| tag == key);
            let mut schema = schema.clone();
            if let (Some((_, name)), Value::Object(of_tag)) = (tag, &mut schema) {
                of_tag.retain(|key, _| key == "description");
                of_tag.insert("const".into(), json!(name));
            }
            properties.insert(key.clone(), schema);
        }
        for key in part["required"].as_array().into_iter().flatten() {
            if !required.contains(key) {
                required.push(key.clone());
            }
        }
    }
    json!({
        "description": says,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

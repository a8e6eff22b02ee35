//! What serde's types say that means nothing in TOML, and doc comments as running text.

use serde_json::{Map, Value};

/// TOML has no null, and numbers of one size. A wrapped doc comment is one line.
pub fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(inner) => inner.iter_mut().for_each(tidy),
        Value::Object(inner) => {
            inner.values_mut().for_each(tidy);
            if is_schema(inner) {
                tidy_one(inner);
            }
        }
        _ => {}
    }
}

/// A table of keys is none: there `format` is a name.
fn is_schema(object: &Map<String, Value>) -> bool {
    !object.values().all(Value::is_object)
}

/// What the type that reads a number can hold, where that is less than TOML can write.
fn most_of_type(format: &str) -> Option<Value> {
    match format {
        "uint8" => Some(u8::MAX.into()),
        "uint32" => Some(u32::MAX.into()),
        "float" => Some(f32::MAX.into()),
        _ => None,
    }
}

fn tidy_one(schema: &mut Map<String, Value>) {
    if let Some(Value::String(format)) = schema.get("format") {
        if let Some(most) = most_of_type(format) {
            schema.entry("maximum").or_insert(most);
        }
        schema.remove("format");
    }
    schema.remove("writeOnly");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_mut_slice() {
            let only = only.take();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(names)) = schema.get_mut("enum") {
        names.retain(|name| !name.is_null());
    }
    let is_null = |one: &Value| one["type"] == "null";
    if let Some(Value::Array(options)) = schema.get_mut("anyOf")
        && options.iter().any(is_null)
    {
        options.retain(|one| !is_null(one));
        if let [Value::Object(only)] = options.as_mut_slice() {
            let only = std::mem::take(only);
            schema.remove("anyOf");
            for (key, value) in only {
                schema.entry(key).or_insert(value);
            }
        }
    }
}

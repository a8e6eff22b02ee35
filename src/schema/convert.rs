//! From how serde writes types to how a recipe does, which its reader defines: an enum is a table whose `kind` names the
//! variant, or that name alone; in presets nothing is required.

use serde_json::{Map, Value, json};

use super::choice::{self, Case, chosen, names, tagged};
use super::references::target;
use super::{DEFINITIONS, PRESET};
use crate::recipe::KIND;

/// Every definition twice: as the recipe has it, and as a preset has parts of it.
pub fn convert(plain: &Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    for preset in [false, true] {
        for (name, schema) in plain {
            let prefix = if preset { PRESET } else { "" };
            let mut convert = Convert {
                plain,
                preset,
                owner: format!("{prefix}{name}"),
                found: &mut found,
            };
            let converted = convert.schema(schema);
            let owner = convert.owner;
            found.insert(owner, converted);
        }
    }
    found
}

struct Convert<'a> {
    plain: &'a Map<String, Value>,
    preset: bool,
    /// The definition that is written, and the beginning of its variants' names.
    owner: String,
    found: &'a mut Map<String, Value>,
}

/// A table of an enum.
struct Variant {
    name: String,
    table: Value,
}

impl Convert<'_> {
    fn schema(&mut self, schema: &Value) -> Value {
        let Value::Object(object) = schema else {
            return schema.clone();
        };
        let accepted = choice::values(schema);
        let mut converted = if schema["oneOf"].is_array() && !accepted.is_empty() {
            object_of(names(schema, &accepted))
        } else if let Some((key, variants, bare)) = self.variants(schema) {
            self.tables(&key, variants, bare)
        } else if let Some(options) = schema["anyOf"].as_array() {
            self.by_type(options)
        } else {
            self.object(object)
        };
        for key in ["description", "default"] {
            if let Some(value) = object.get(key) {
                converted.insert(key.into(), value.clone());
            }
        }
        Value::Object(converted)
    }

    fn object(&mut self, object: &Map<String, Value>) -> Map<String, Value> {
        let mut converted = Map::new();
        for (key, value) in object {
            let value = match (key.as_str(), value) {
                // What a preset says of a table is laid over the rest of it.
                ("required" | "oneOf" | "dependencies" | "minProperties", _) if self.preset => {
                    continue;
                }
                ("properties", Value::Object(keys)) => {
                    let keys = keys
                        .iter()
                        .map(|(key, schema)| (key.clone(), self.schema(schema)));
                    Value::Object(keys.collect())
                }
                ("items", items) => {
                    // A list is replaced as a whole.
                    let preset = std::mem::replace(&mut self.preset, false);
                    let items = self.schema(items);
                    self.preset = preset;
                    items
                }
                ("$ref", Value::String(reference)) if self.preset => {
                    let name = reference.trim_start_matches(DEFINITIONS);
                    json!(format!("{DEFINITIONS}{PRESET}{name}"))
                }
                _ => value.clone(),
            };
            converted.insert(key.clone(), value);
        }
        converted
    }

    /// The variants of an enum, with the key that tells them apart, and those that a name alone stands for.
    fn variants(&self, schema: &Value) -> Option<(String, Vec<Variant>, Vec<String>)> {
        let ones = schema["oneOf"].as_array()?;
        if let Some(key) = ones.iter().find_map(deciding) {
            let variants: Option<Vec<Variant>> = (ones.iter())
                .map(|one| {
                    let name = one["properties"][&key]["const"].as_str()?.to_string();
                    let table = one.clone();
                    Some(Variant { name, table })
                })
                .collect();
            return Some((key, variants?, Vec::new()));
        }
        let (mut variants, mut bare) = (Vec::new(), Vec::new());
        for one in ones {
            let said = &one["description"];
            let of_names = choice::values(one);
            for name in &of_names {
                bare.push(name.clone());
                let mut table = json!({ "type": "object", "additionalProperties": false });
                if !said.is_null() {
                    table["description"] = said.clone();
                }
                variants.push(Variant {
                    name: name.clone(),
                    table,
                });
            }
            if !of_names.is_empty() {
                continue;
            }
            let [(name, inner)]: [(&String, &Value); 1] = one["properties"]
                .as_object()?
                .iter()
                .collect::<Vec<_>>()
                .try_into()
                .ok()?;
            let inner = target(inner, self.plain);
            if one["required"] != json!([name]) || inner["type"] != "object" {
                return None;
            }
            let mut table = inner.clone();
            if !said.is_null() {
                table["description"] = said.clone();
            }
            if inner["required"].as_array().is_none_or(Vec::is_empty) {
                bare.push(name.clone());
            }
            variants.push(Variant {
                name: name.clone(),
                table,
            });
        }
        // The only kind goes without saying.
        Some((KIND.to_string(), variants, bare))
    }

    fn tables(
        &mut self,
        key: &str,
        variants: Vec<Variant>,
        bare: Vec<String>,
    ) -> Map<String, Value> {
        let names: Vec<String> = variants
            .iter()
            .map(|variant| variant.name.clone())
            .collect();
        let said = variants
            .iter()
            .filter(|variant| bare.contains(&variant.name));
        let said: Vec<Value> = said
            .map(|variant| variant.table["description"].clone())
            .collect();
        let is_only = names.len() == 1 && !bare.is_empty();
        let mut cases = Vec::new();
        for Variant { name, mut table } in variants {
            let owner = format!("{}.{name}", self.owner);
            if table["oneOf"].is_null() || deciding(&table).is_none() {
                let mut keys = Map::from_iter([(key.to_string(), json!({ "const": name }))]);
                if let Some(Value::Object(own)) = table.get_mut("properties").map(Value::take) {
                    keys.extend(own);
                }
                table["properties"] = Value::Object(keys);
                let mut required = vec![json!(key)];
                if is_only {
                    required.clear();
                }
                let own = table["required"].as_array().into_iter().flatten();
                required.extend(own.filter(|own| *own != key).cloned());
                table["required"] = Value::Array(required);
            }
            let outer = std::mem::replace(&mut self.owner, owner.clone());
            let table = self.schema(&table);
            self.owner = outer;
            self.found.insert(owner.clone(), table);
            cases.push(tagged(
                key,
                &name,
                json!({ "$ref": format!("{DEFINITIONS}{owner}") }),
            ));
        }
        let missing = match self.preset {
            false => {
                json!({ "type": "object", "properties": { key: { "enum": names } }, "required": [key] })
            }
            true => {
                let mut keys = self.any_of_them(&cases);
                keys.insert(key.to_string(), json!({ "enum": names }));
                json!({ "type": "object", "properties": keys, "additionalProperties": false })
            }
        };
        let mut types = vec![json!("object")];
        if !bare.is_empty() {
            types.push(json!("string"));
            let when = json!({ "type": "string" });
            cases.push(Case {
                when,
                then: json!({ "type": "string", "enum": bare, "x-taplo": { "docs": { "enumValues": said } } }),
            });
        }
        let only = is_only.then(|| cases.remove(0).then);
        let mut schema = chosen(cases, only.clone().unwrap_or(missing));
        if let (Some(only), Some(Value::Array(shown))) = (only, schema.get_mut("anyOf")) {
            shown.insert(0, only);
        }
        schema
    }

    /// Parts of a table whose kind stands in the recipe: keys of any.
    fn any_of_them(&self, cases: &[Case]) -> Map<String, Value> {
        let mut keys: Map<String, Value> = Map::new();
        for case in cases {
            self.add_keys(&case.then, &mut keys);
        }
        for schema in keys.values_mut() {
            if let Some([only]) = schema["anyOf"].as_array().map(Vec::as_slice) {
                *schema = only.clone();
            }
        }
        keys
    }

    /// Each key with all that it can be.
    fn add_keys(&self, table: &Value, keys: &mut Map<String, Value>) {
        let table = target(table, self.found);
        for inner in table["anyOf"].as_array().into_iter().flatten() {
            self.add_keys(inner, keys);
        }
        for (key, schema) in table["properties"].as_object().into_iter().flatten() {
            let known = keys
                .entry(key.clone())
                .or_insert_with(|| json!({ "anyOf": [] }));
            if let Some(Value::Array(known)) = known.get_mut("anyOf")
                && known.iter().all(|known| accepts(known) != accepts(schema))
            {
                known.push(schema.clone());
            }
        }
    }

    /// Values of several types.
    fn by_type(&mut self, options: &[Value]) -> Map<String, Value> {
        let (mut cases, mut types) = (Vec::new(), Vec::new());
        for option in options {
            // An enum's tables have no type of their own.
            let kind = target(option, self.plain)["type"]
                .as_str()
                .unwrap_or("object");
            types.push(kind);
            cases.push(Case {
                when: json!({ "type": kind }),
                then: self.schema(option),
            });
        }
        chosen(cases, json!({ "type": types }))
    }
}

/// The key whose value tells a table from those beside it.
fn deciding(table: &Value) -> Option<String> {
    let keys = table["properties"].as_object()?;
    let is_tag = |schema: &Value| schema["const"].is_string();
    let mut tags = keys.iter().filter(|(_, schema)| is_tag(schema));
    // Below a kind, another key decides.
    tags.next_back().map(|(key, _)| key.clone())
}

/// The schema without what is said of it.
fn accepts(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        object.retain(|key, _| key != "description" && key != "default");
    }
    schema
}

fn object_of(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

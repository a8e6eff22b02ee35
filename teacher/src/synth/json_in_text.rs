//! JSON objects in what a model writes: alone, in a fence, or amid words.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The objects of a text in their order; those within another are not listed again. Keys are [`plain`], and one that stands
/// there several times with different values holds all of them in an array: who looks for one value finds none.
pub fn objects(text: &str) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        match values.next() {
            Some(Ok(Object(object))) => {
                found.push(object);
                rest = &rest[values.byte_offset()..];
            }
            _ => rest = &rest[1..],
        }
    }
    found
}

struct Object(Map<String, Value>);

/// Objects within objects are read as these are.
#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Object(Object),
    Other(Value),
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
                let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
                while let Some((key, part)) = entries.next_entry::<String, Part>()? {
                    let value = match part {
                        Part::Object(Object(object)) => Value::Object(object),
                        Part::Other(value) => value,
                    };
                    let values = found.entry(plain(&key)).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                let one = |mut values: Vec<Value>| match values.len() {
                    1 => values.remove(0),
                    _ => Value::Array(values),
                };
                let entries = found.into_iter().map(|(key, values)| (key, one(values)));
                Ok(Object(entries.collect()))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A name as keys are compared: small letters, words joined by `_`.
pub fn plain(key: &str) -> String {
    let words = key.split(|c: char| !c.is_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join("_")
}

/// The value under the first of these names that the object has.
pub fn value<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_wherever_they_stand() {
        let count = |text| objects(text).len();
        assert_eq!(count(r#"{"a": {"b": 1}}"#), 1);
        assert_eq!(count("Well: ```json\n{\"a\": 1}\n``` and {\"b\": 2}."), 2);
        assert_eq!(count(r#"{not json} {"a": 1"#), 0);
        assert_eq!(count(r#"{{"a": 1}}"#), 1);
        assert_eq!(count("a set {é} of things"), 0);
        let object = &objects(r#"{"Instruction-Following ": 3}"#)[0];
        assert_eq!(value(object, &["instruction_following"]), Some(&3.into()));
        assert_eq!(value(object, &["following"]), None);
        let text = r#"{"a": {"b": 1, "B": 2, "c": 1}, "A ": {"b": 1, "B": 2, "c": 1}, "c": null}"#;
        let expected = serde_json::json!({ "a": { "b": [1, 2], "c": 1 }, "c": null });
        assert_eq!(Value::Object(objects(text)[0].clone()), expected);
    }
}

//! JSON objects in what a model writes: alone, in a fence, or amid words.

use serde_json::{Map, Value};

/// The objects of a text in their order; those within another are not listed again.
pub fn objects(text: &str) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        match values.next() {
            Some(Ok(object)) => {
                found.push(object);
                rest = &rest[values.byte_offset()..];
            }
            _ => rest = &rest[1..],
        }
    }
    found
}

/// What a model says after it has thought aloud.
pub fn without_thoughts(text: &str) -> &str {
    text.rsplit("</think>").next().unwrap_or(text)
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

/// The value under the first of these names, however they are written.
pub fn value<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    let named = |name: &&str| object.iter().find(|(key, _)| plain(key) == **name);
    names.iter().find_map(named).map(|(_, value)| value)
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
        assert_eq!(without_thoughts("<think>{}</think>so"), "so");
    }
}

//! The space that SentencePiece models put before a text, and a tokenizer without it.
//!
//! A text that follows other text must not get one: a completion would begin with a space that nobody wrote.

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SpacePrefix {
    None,
    /// Before the first word only.
    Start,
    /// Before the first word after each special token, too.
    EveryPiece,
}

/// Removes from a `tokenizer.json` whatever puts a space before the text, and says what it was.
pub(crate) fn remove_space_prefix(tokenizer: &mut Value) -> SpacePrefix {
    let mut found = SpacePrefix::None;
    for key in ["normalizer", "pre_tokenizer"] {
        if let Some(part) = tokenizer.get_mut(key) {
            strip_prefix_from(part, &mut found);
            if part.get("type").and_then(Value::as_str) == Some("Prepend") {
                *part = Value::Null;
            }
        }
    }
    found
}

fn strip_prefix_from(part: &mut Value, found: &mut SpacePrefix) {
    for list in ["normalizers", "pretokenizers"] {
        if let Some(Value::Array(parts)) = part.get_mut(list) {
            parts.iter_mut().for_each(|p| strip_prefix_from(p, found));
            parts.retain(|p| p.get("type").and_then(Value::as_str) != Some("Prepend"));
        }
    }
    match part.get("type").and_then(Value::as_str) {
        Some("Prepend") => *found = SpacePrefix::EveryPiece,
        Some("Metaspace") => {
            // Old files say `add_prefix_space` instead of a scheme.
            let old = part
                .get("add_prefix_space")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            let scheme = part.get("prepend_scheme").and_then(Value::as_str);
            *found = match scheme.unwrap_or(if old { "always" } else { "never" }) {
                "never" => return,
                "first" => SpacePrefix::Start,
                _ => SpacePrefix::EveryPiece,
            };
            part["prepend_scheme"] = json!("never");
            if part.get("add_prefix_space").is_some() {
                part["add_prefix_space"] = json!(false);
            }
        }
        Some("ByteLevel") if part.get("add_prefix_space") == Some(&json!(true)) => {
            *found = SpacePrefix::EveryPiece;
            part["add_prefix_space"] = json!(false);
        }
        _ => {}
    }
}

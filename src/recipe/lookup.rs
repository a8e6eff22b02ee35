//! Where a key stands in a recipe.

use super::document::{Entry, Node, Value, parse_at};
use super::read::KIND;

/// The text of a key and its value: the first place that fits the path, where tables that are chosen by a key have the names
/// of `choices` there. Below `models` and `data` stand names, and stages go by their kind.
pub fn text_of_key<'a>(
    text: &'a str,
    path: &[String],
    choices: &[(String, String)],
) -> Option<&'a str> {
    let root = parse_at(0, text).ok()?;
    let entry = find(&root, path, choices)?;
    let written = text.get(entry.key_span.start..entry.node.span.end)?;
    // The header of a table stands before its keys and is no line that shows one.
    (written.starts_with(&entry.key) && written.contains('=')).then_some(written)
}

fn find<'a>(node: &'a Node, path: &[String], choices: &[(String, String)]) -> Option<&'a Entry> {
    let (key, below) = path.split_first()?;
    let entries = match &node.value {
        Value::Array(items) => {
            let mut fitting = items.iter().filter(|item| fits(item, choices));
            return fitting.find_map(|item| find(item, path, choices));
        }
        Value::Table(entries) => entries,
        _ => return None,
    };
    let entry = entries.iter().find(|entry| entry.key == *key)?;
    let is_root = node.get("stage").is_some();
    match (key.as_str(), below) {
        (_, []) => Some(entry),
        ("models" | "data", _) if is_root => {
            let mut named = entry.node.table()?.iter();
            named.find_map(|named| find(&named.node, below, choices))
        }
        ("stage", [kind, below @ ..]) if is_root => {
            let Value::Array(stages) = &entry.node.value else {
                return None;
            };
            let is_kind = |stage: &&Node| stage.get(KIND).and_then(Node::string) == Some(kind);
            // The kind of a stage is no choice of a table below.
            let below_kind: Vec<_> = choices
                .iter()
                .filter(|(tag, _)| tag != KIND)
                .cloned()
                .collect();
            let mut fitting =
                (stages.iter()).filter(|stage| is_kind(stage) && fits(stage, &below_kind));
            fitting.find_map(|stage| find(stage, below, choices))
        }
        _ if entry.node.table().is_some() && !fits(&entry.node, choices) => None,
        _ => find(&entry.node, below, choices),
    }
}

/// Whether a table is one of those chosen, as far as it says.
fn fits(node: &Node, choices: &[(String, String)]) -> bool {
    choices.iter().all(|(tag, _)| {
        let found = node.get(tag).and_then(Node::string);
        found.is_none_or(|found| choices.iter().any(|(of, name)| of == tag && name == found))
    })
}

//! Keys of servers that stand in a recipe by mistake: found in its text, so that no error repeats them.

use std::ops::Range;

/// What to do instead.
pub const HINT: &str =
    "a recipe says where a key lies and not what it is: key = { env = \"NAME\" }";

/// How the name of what holds a secret ends, in small letters.
const ENDINGS: [&str; 8] = [
    "key",
    "keys",
    "token",
    "secret",
    "password",
    "passwd",
    "authorization",
    "credentials",
];

/// The parts of a text, TOML or nearly so, that are not to be shown.
pub fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('=') {
        let name = text[..at].trim_end().trim_end_matches(['"', '\'']);
        if is_secret(name) {
            found.extend(value(text, at + 1));
        }
    }
    found.extend(text.match_indices("://").filter_map(|(at, _)| {
        let start = at + 3;
        let rest = &text[start..];
        let end = rest.find(['/', '"', '\'', ' ', '\n', ',']);
        let at_sign = rest[..end.unwrap_or(rest.len())].rfind('@')?;
        Some(start..start + at_sign)
    }));
    found
}

/// Whether what has this name is a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The value from `start` on, unless it says where a secret lies.
fn value(text: &str, start: usize) -> Option<Range<usize>> {
    let start = start + (text[start..].len() - text[start..].trim_start_matches([' ', '\t']).len());
    let rest = &text[start..];
    let until = |end: &[char], from: usize| {
        let found = rest[from..].find(end);
        found.map_or(rest.len(), |length| from + length)
    };
    let length = match rest.chars().next()? {
        '{' => {
            let inner = rest[1..].trim_start();
            if inner.starts_with("env") || inner.starts_with("file") {
                return None;
            }
            until(&['}', '\n'], 1)
        }
        '[' => until(&[']', '\n'], 1),
        quote @ ('"' | '\'') => {
            let triple = [quote; 3].iter().collect::<String>();
            match rest.strip_prefix(&triple) {
                Some(text) => text.find(&triple).map_or(rest.len(), |length| 3 + length),
                None => until(&[quote, '\n'], 1),
            }
        }
        _ => until(&[',', '}', '\n'], 0),
    };
    let is_bare = |c: char| !['"', '\'', '{', '[', ' ', '\n'].contains(&c);
    let opening = rest[..length].find(is_bare).unwrap_or(length);
    (opening < length).then(|| start + opening..start + length)
}

/// The text with a star for each letter of a secret, and as long.
pub fn masked(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in secrets(text) {
        bytes[range].fill(b'*');
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_starred_out_and_their_places_are_not() {
        for (text, shown) in [
            ("key = \"sk-1\"", "key = \"****\""),
            ("{ api_key='sk-1', a = 2 }", "{ api_key='****', a = 2 }"),
            ("key = sk-1\nmodel = 'm'", "key = ****\nmodel = 'm'"),
            ("\"x-api-key\" = \"ü\"", "\"x-api-key\" = \"**\""),
            ("models.m.source.key=sk-1, b", "models.m.source.key=****, b"),
            ("key = [\"a\", \"b\"]", "key = [\"*******]"),
            ("key = { value = \"sk\" }", "key = { *************}"),
            ("key = \"\"\"\nsk\n1\"\"\"", "key = \"\"\"\n****\"\"\""),
            ("key = { env = \"NAME\" }", "key = { env = \"NAME\" }"),
            ("key = { file = \"a\" }", "key = { file = \"a\" }"),
            ("tokenizer = \"m\"", "tokenizer = \"m\""),
            ("tokens_per_minute = 3", "tokens_per_minute = 3"),
            (
                "e = [\"https://sk:1@host/v1\"]",
                "e = [\"https://****@host/v1\"]",
            ),
            ("e = \"https://host/@v1\"", "e = \"https://host/@v1\""),
            ("key =", "key ="),
            ("key = \"", "key = \""),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }
}

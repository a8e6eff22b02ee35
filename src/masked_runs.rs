//! Tokens as text, cut where it changes whether they are learned.

use datasets::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// Neighbouring tokens that are all learned, or all only read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskedRun {
    pub text: String,
    pub learned: bool,
}

/// The text of all tokens, special ones included; bytes that make no character are U+FFFD, and so are control
/// characters.
pub fn masked_runs(tokenizer: &Tokenizer, ids: &[u32], supervised: &[u8]) -> Vec<MaskedRun> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let learned = supervised[start] != 0;
        let length = (supervised[start..].iter())
            .take_while(|&&s| (s != 0) == learned)
            .count();
        let bytes: Vec<u8> = (ids[start..start + length].iter())
            .flat_map(|&id| tokenizer.token_bytes(id).unwrap_or_default())
            .collect();
        let text = printable(&String::from_utf8_lossy(&bytes));
        runs.push(MaskedRun { text, learned });
        start += length;
    }
    runs
}

fn printable(text: &str) -> String {
    let replace = |character: char| match character {
        '\n' | '\t' => character,
        other if other.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    };
    text.chars().map(replace).collect()
}

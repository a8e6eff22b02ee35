//! Lines of the shipped recipes that show a key.

use super::keys::Key;
use crate::recipe::text_of_key;

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../recipes/", $name, ".toml")))),*]
    };
}

/// Simple ones first: the first that has a key shows it.
const RECIPES: [(&str, &str); 18] = recipes![
    "quickstart",
    "smollm2-distill",
    "qlora-sft",
    "answers-sft",
    "dpo",
    "gqa-uptrain",
    "prune-distill",
    "capture-distill",
    "evaluate",
    "gkd",
    "distillm",
    "qat-q4_0",
    "quantize-compare",
    "cross-tokenizer",
    "instructions",
    "zephyr-data",
    "phi-data",
    "zephyr",
];

/// Longer ones show more than the key.
const MOST_CHARACTERS: usize = 160;

/// A text `key = value` and the recipe that it is from.
pub fn example(key: &Key) -> Option<(&'static str, String)> {
    RECIPES.iter().find_map(|(name, text)| {
        let found = text_of_key(text, &key.path, &key.choices)?;
        let is_short = found.chars().count() <= MOST_CHARACTERS && !found.contains('\n');
        is_short.then(|| (*name, found.to_string()))
    })
}

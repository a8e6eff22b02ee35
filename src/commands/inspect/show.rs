//! Tokens as text in which the masked ones can be told from the others.

use datasets::tokenizer::Tokenizer;

use crate::masked_runs::masked_runs;

/// What stands around a run of tokens that are read but not learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Marks {
    before: &'static str,
    after: &'static str,
}

impl Marks {
    /// Dimmed on a terminal, `⟦…⟧` elsewhere, and where the user wants no colours.
    pub fn of(is_terminal: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match is_terminal && !plain {
            true => Self::DIMMED,
            false => Self::BRACKETS,
        }
    }

    const DIMMED: Self = Self {
        before: "\u{1b}[2m",
        after: "\u{1b}[0m",
    };
    const BRACKETS: Self = Self {
        before: "⟦",
        after: "⟧",
    };
}

/// The text of all tokens, the masked ones marked.
pub fn shown(tokenizer: &Tokenizer, ids: &[u32], supervised: &[u8], marks: Marks) -> String {
    let runs = masked_runs(tokenizer, ids, supervised).into_iter();
    let marked = runs.map(|run| match run.learned {
        true => run.text,
        false => [marks.before, &run.text, marks.after].concat(),
    });
    marked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_runs_are_marked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [],
            "model": {
                "type": "WordLevel",
                "vocab": { "a": 0, "b": 1, "\u{1b}": 2 },
                "unk_token": "a"
            }
        });
        std::fs::write(&path, json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let (ids, supervised) = ([0, 1, 1, 0, 2], [0, 0, 1, 1, 0]);
        let plain = shown(&tokenizer, &ids, &supervised, Marks::of(false));
        assert_eq!(plain, "⟦ab⟧ba⟦\u{FFFD}⟧");
        let dimmed = shown(&tokenizer, &ids[..3], &supervised[..3], Marks::DIMMED);
        assert_eq!(dimmed, "\u{1b}[2mab\u{1b}[0mb");
    }
}

//! HellaSwag (arXiv 1905.07830), prompted as lm-eval's `hellaswag` does: whole endings are scored.

use datasets::error::DataError;

use super::question::Question;
use crate::row::Row;

/// A question from `activity_label`, the context in two parts (`ctx_a`, `ctx_b`) or in one (`ctx`), `endings` and `label`.
pub(super) fn question(row: &Row) -> Result<Option<Question>, DataError> {
    let context = match row.value(&["ctx_a"]) {
        Some(_) => {
            let second = match row.value(&["ctx_b"]) {
                Some(_) => row.text(&["ctx_b"])?,
                None => String::new(),
            };
            format!("{} {}", row.text(&["ctx_a"])?, capitalized(&second))
        }
        None => row.text(&["ctx"])?,
    };
    let label = row.text(&["activity_label"])?;
    let endings = row.texts(&["endings"])?;
    Ok(Some(Question {
        subject: String::new(),
        prompt: cleaned(&format!("{label}: {context}")),
        answer: row.choice(&["label", "expected_index"], endings.len(), 0)?,
        choices: endings.iter().map(|ending| cleaned(ending)).collect(),
    }))
}

/// The first letter large, all others small: Python's `capitalize`, which the published scores were made with.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first
            .to_uppercase()
            .chain(letters.as_str().to_lowercase().chars())
            .collect(),
        None => String::new(),
    }
}

/// Without the marks that WikiHow has left.
fn cleaned(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // A bracket that is not closed on its line stays, as in the pattern `\[.*?\]`.
    while let Some(open) = rest.find('[') {
        let line_end = rest[open..].find('\n').map_or(rest.len(), |end| open + end);
        match rest[open..line_end].find(']') {
            Some(close) => {
                kept += &rest[..open];
                rest = &rest[open + close + 1..];
            }
            None => {
                kept += &rest[..=open];
                rest = &rest[open + 1..];
            }
        }
    }
    kept += rest;
    kept.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_wikihow_go_and_letters_follow_python() {
        assert_eq!(
            cleaned(" How to [title] sit [step]  down [x"),
            "How to. sit  down [x"
        );
        assert_eq!(capitalized("THEN he Éats"), "Then he éats");
    }
}

//! GSM8K (arXiv 2110.14168): prompts, stop strings and both rules of lm-eval 0.4.13's `gsm8k`.

use std::sync::LazyLock;

use datasets::error::DataError;
use regex::Regex;

use super::{Found, Problem};
use crate::row::Row;

pub(super) const STOP: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];

/// The number behind the mark that ends a worked answer.
static MARKED: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (-?[0-9.,]+)"));
/// Whatever may be a number.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"-?[$0-9.,]{2,}|-?[0-9]+"));
/// All before the last mark.
static BEFORE_MARK: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s).*#### "));
/// At the end, or before the last end of a line, as Python's `$` has it.
static LAST_POINT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.(\n?)\z"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

pub(super) fn prompt(question: &str) -> String {
    format!("Question: {question}\nAnswer:")
}

/// `question` and `answer`, or `prompt` and `upstream_answer`. An answer ends in `#### N`, or is the number alone.
pub(super) fn problem(row: &Row) -> Result<Problem, DataError> {
    let columns = ["answer", "upstream_answer"];
    let worked = row.text(&columns)?.trim_end().to_string();
    let expected = compared(&worked);
    if !expected.contains(|letter: char| letter.is_ascii_digit()) {
        let (value, column) = row.value(&columns).expect("it was read above");
        let wanted = "a text that ends in `#### ` and a number, or a number";
        return Err(row.record.unexpected(&column, value, wanted));
    }
    Ok(Problem {
        question: row.text(&["question", "prompt"])?,
        expected,
        worked,
        ..Problem::default()
    })
}

pub(super) fn look(output: &str, expected: &str) -> Found {
    let strict = MARKED.captures(output).map(|found| found[1].to_string());
    let flexible = NUMBER.find_iter(output).last();
    let flexible = flexible.map(|found| found.as_str().to_string());
    let is_right = |answer: &Option<String>| {
        let answer = answer.as_deref().unwrap_or("[invalid]");
        compared(answer) == expected
    };
    Found {
        strict_correct: is_right(&strict),
        correct: is_right(&flexible),
        strict,
        flexible,
    }
}

/// What of an answer is compared: in small letters, without commas, dollars, what stands before the mark, and a last point.
fn compared(answer: &str) -> String {
    let plain = answer.replace([',', '$'], "");
    let plain = BEFORE_MARK.replace_all(&plain, "");
    LAST_POINT.replace(&plain, "$1").to_lowercase()
}

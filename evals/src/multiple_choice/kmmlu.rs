//! KMMLU (arXiv 2402.11548), prompted as lm-eval's `kmmlu` does: no word of the subject, a full-width colon.

use datasets::error::DataError;

use super::mmlu::{LETTERS, four_choices, prompt};
use super::question::Question;
use super::subjects::plain_subject;
use crate::row::Row;

/// A question from `question`, `A` to `D`, `answer` (1 to 4) and `Category`.
pub(super) fn question(row: &Row) -> Result<Option<Question>, DataError> {
    let text = row.text(&["question"])?;
    let answer = row.choice(&["answer"], 4, 1)?;
    let subject = match row.value(&["subject", "Category", "category"]) {
        Some((_, column)) => plain_subject(&row.text(&[&column])?),
        None => String::new(),
    };
    Ok(Some(Question {
        subject,
        prompt: prompt(&text, &four_choices(row)?, "정답："),
        choices: LETTERS.map(String::from).to_vec(),
        answer,
    }))
}

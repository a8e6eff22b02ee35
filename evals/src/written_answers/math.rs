//! MATH (arXiv 2103.03874): prompt and stop string of lm-eval 0.4.13's `hendrycks_math`, and two rules. The strict one is
//! lm-eval's: what stands between the first and the last dollar, or all of the text. The flexible one is that of the
//! original release: what is in the last box, and only where there is none the strict one.

use datasets::error::DataError;
use serde_json::Value;

use super::equivalence::{boxed, is_equivalent};
use super::{Found, Problem};
use crate::row::Row;

pub(super) const STOP: [&str; 1] = ["Problem:"];

pub(super) fn prompt(question: &str) -> String {
    format!("Problem: {question}\nAnswer:")
}

/// `problem` with the boxed answer of its `solution`, or else an `answer`; a subject and a level where they are told.
pub(super) fn problem(row: &Row) -> Result<Problem, DataError> {
    let solution = row.text(&["solution", "answer"])?;
    let expected = match boxed(&solution) {
        Some(answer) if !answer.trim().is_empty() => answer.to_string(),
        None if row.value(&["answer"]).is_some() => row.text(&["answer"])?,
        _ => {
            let value = Value::String(solution);
            let expected = "a text with \\boxed{…} and something in it";
            return Err(row.record.unexpected("solution", &value, expected));
        }
    };
    let told = |columns: &[&str]| match row.value(columns) {
        Some(_) => row.text(columns).map(Some),
        None => Ok(None),
    };
    let level = told(&["level"])?;
    let level = level.map(|level| level.trim_start_matches("Level ").to_string());
    Ok(Problem {
        question: row.text(&["problem"])?,
        worked: expected.clone(),
        expected,
        subject: told(&["type", "subject"])?,
        level: level.map(|level| format!("level {level}")),
    })
}

pub(super) fn look(output: &str, expected: &str) -> Found {
    let dollars = (output.find('$'), output.rfind('$'));
    let strict = match dollars {
        (Some(first), Some(last)) if first < last => &output[first + 1..last],
        _ => output,
    };
    let flexible = boxed(output).unwrap_or(strict);
    Found {
        strict_correct: is_equivalent(strict, expected),
        correct: is_equivalent(flexible, expected),
        strict: Some(strict.to_string()),
        flexible: Some(flexible.to_string()),
    }
}

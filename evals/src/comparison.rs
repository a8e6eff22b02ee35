//! Two evaluations of the same samples, side by side.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

/// Which samples the two got right. Samples are named by their numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub both_right: u64,
    pub both_wrong: u64,
    pub only_first: Vec<u64>,
    pub only_second: Vec<u64>,
    /// McNemar's exact test, two-sided: how likely so uneven a split of the differing samples would be, if neither were
    /// better.
    pub p: f64,
    /// Records of each file that have no part: further samples of a task that was answered several times, which depend on
    /// its first.
    pub left_out: usize,
}

#[derive(Debug, Error)]
pub enum ComparisonError {
    #[error("record {line} of the {side} file has no `{key}`")]
    NoField {
        side: &'static str,
        /// From 1.
        line: usize,
        key: &'static str,
    },
    #[error("sample {number} is in the {side} file twice")]
    Twice { number: u64, side: &'static str },
    #[error(
        "sample {number} is in the {side} file alone\n\
         hint: evaluate both models with the same data, --limit and --seed"
    )]
    Missing { number: u64, side: &'static str },
    #[error(
        "sample {number} has another prompt in each file\n\
         hint: evaluate both models on the same task with the same --shots"
    )]
    OtherPrompt { number: u64 },
}

type Record = Map<String, Value>;

/// Compares records by their `number`, `prompt` and `correct`. Of those with a `task_id` only each task's `sample` 0.
///
/// # Errors
/// Records of other samples, or without these fields.
pub fn compare(first: &[Record], second: &[Record]) -> Result<Comparison, ComparisonError> {
    let later = |records: &[Record]| records.iter().filter(|record| is_later(record)).count();
    let left_out = later(first).max(later(second));
    let (first, second) = (by_number("first", first)?, by_number("second", second)?);
    for (one, other, side) in [(&first, &second, "first"), (&second, &first, "second")] {
        if let Some(&number) = one.keys().find(|number| !other.contains_key(number)) {
            return Err(ComparisonError::Missing { number, side });
        }
    }
    let mut found = Comparison {
        both_right: 0,
        both_wrong: 0,
        only_first: Vec::new(),
        only_second: Vec::new(),
        p: 1.0,
        left_out,
    };
    for (&number, &(right, prompt)) in &first {
        let (other_right, other_prompt) = second[&number];
        if prompt != other_prompt {
            return Err(ComparisonError::OtherPrompt { number });
        }
        match (right, other_right) {
            (true, true) => found.both_right += 1,
            (false, false) => found.both_wrong += 1,
            (true, false) => found.only_first.push(number),
            (false, true) => found.only_second.push(number),
        }
    }
    found.p = mc_nemar(found.only_first.len(), found.only_second.len());
    Ok(found)
}

type Verdicts<'a> = BTreeMap<u64, (bool, &'a Value)>;

fn by_number<'a>(
    side: &'static str,
    records: &'a [Record],
) -> Result<Verdicts<'a>, ComparisonError> {
    let mut found = Verdicts::new();
    for (at, record) in records.iter().enumerate() {
        let no = |key| ComparisonError::NoField {
            side,
            line: at + 1,
            key,
        };
        let number = record.get("number").and_then(Value::as_u64);
        let right = record.get("correct").and_then(Value::as_bool);
        let (number, right) = (number.ok_or(no("number"))?, right.ok_or(no("correct"))?);
        let verdict = (right, record.get("prompt").ok_or(no("prompt"))?);
        if found.insert(number, verdict).is_some() {
            return Err(ComparisonError::Twice { number, side });
        }
    }
    let later = records.iter().filter(|record| is_later(record));
    for number in later.filter_map(|record| record.get("number")?.as_u64()) {
        found.remove(&number);
    }
    Ok(found)
}

fn is_later(record: &Record) -> bool {
    record.contains_key("task_id") && record.get("sample").is_some_and(|sample| *sample != 0)
}

/// 2 · P(X ≤ min(a, b)) for X binomial with a + b fair draws, 1 at most.
fn mc_nemar(a: usize, b: usize) -> f64 {
    let draws = a + b;
    let mut term = -(draws as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=a.min(b) {
        sum += term.exp();
        term += ((draws - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_test_is_the_exact_binomial_one() {
        // scipy.stats.binomtest(min(a, b), a + b).pvalue
        for (a, b, p) in [
            (0, 0, 1.0),
            (5, 5, 1.0),
            (1, 9, 0.021484375),
            (30, 12, 0.007_915_897),
            (0, 2000, 0.0),
        ] {
            assert!(
                (mc_nemar(a, b) - p).abs() < 1e-6,
                "{a} {b}: {}",
                mc_nemar(a, b)
            );
        }
    }

    #[test]
    fn samples_are_paired_by_number_and_prompt() {
        let record = |number: u64, prompt: &str, correct: bool| {
            let value = json!({ "number": number, "prompt": prompt, "correct": correct });
            value.as_object().unwrap().clone()
        };
        let first = [
            record(1, "a", true),
            record(2, "b", true),
            record(3, "c", false),
        ];
        let second = [
            record(3, "c", true),
            record(2, "b", true),
            record(1, "a", false),
        ];
        let found = compare(&first, &second).unwrap();
        assert_eq!((found.both_right, found.both_wrong), (1, 0));
        assert_eq!((found.only_first, found.only_second), (vec![1], vec![3]));
        let error = compare(&first, &second[1..]).unwrap_err().to_string();
        assert!(
            error.contains("sample 3 is in the first file alone"),
            "{error}"
        );
        let other = [record(1, "x", true), first[1].clone(), first[2].clone()];
        let error = compare(&first, &other).unwrap_err().to_string();
        assert!(error.contains("sample 1 has another prompt"), "{error}");
        let twice = [first[0].clone(), first[0].clone()];
        let error = compare(&twice, &first).unwrap_err().to_string();
        assert!(
            error.contains("sample 1 is in the first file twice"),
            "{error}"
        );
    }

    #[test]
    fn further_samples_of_a_task_have_no_part() {
        let record = |number: u64, correct: bool| {
            let value = json!({
                "number": number, "prompt": "a", "correct": correct, "task_id": (number - 1) / 2,
                "sample": (number - 1) % 2,
            });
            value.as_object().unwrap().clone()
        };
        let all = |correct: bool| (1..=4).map(|number| record(number, correct)).collect();
        let (first, second): (Vec<_>, Vec<_>) = (all(true), all(false));
        let found = compare(&first, &second).unwrap();
        assert_eq!((found.only_first, found.left_out), (vec![1, 3], 2));
        assert_eq!(found.p, 0.5);
    }
}

//! How much a piece of code teaches: a teacher's score from 1 to 5 (phi-1, arXiv 2306.11644, section 2.1).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use datasets::sample::Sample;

use super::asker::Asker;
use super::generate::{Plan, answer_seed};
use super::in_order::{Answered, Dropped};
use super::json_in_text::{objects, value};
use super::patterns::WrittenNumber;
use super::record::{Lineage, Record};
use crate::error::TeacherError;

pub const LEAST: f64 = 1.0;
pub const MOST: f64 = 5.0;
/// Names of a score and of the words that go with it.
const SCORE: [&str; 3] = ["score", "educational_value", "value"];
const WORDS: [&str; 2] = ["rationale", "reason"];

/// What the teacher says of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub score: f64,
    /// Its reasons, where it gives any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
}

/// A label with where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    /// Number of the record in its data, from 1.
    pub record: u64,
    pub high: bool,
    #[serde(flatten)]
    pub judgement: Judgement,
    /// Its `seed` is the number of the record among those that are asked about.
    pub lineage: Lineage,
}

/// A record that the teacher is asked about.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub record: u64,
    pub text: String,
}

/// Asks for the score of one text. From `high_from` on it counts as high.
///
/// # Errors
/// Those that end the whole stage.
pub async fn judge(
    asker: &Asker,
    plan: &Plan,
    number: usize,
    asked: &Asked,
    high_from: f64,
) -> Result<Answered<Label>, TeacherError> {
    let sample = Sample::Text(asked.text.clone());
    let answered = answer_seed(asker, plan, number, &sample).await?;
    Ok(answered.parsed(|record: Record| {
        let judgement = read_judgement(record.answer(), record.is_cut())?;
        Ok(Label {
            record: asked.record,
            high: judgement.score >= high_from,
            judgement,
            lineage: record.lineage,
        })
    }))
}

/// The score out of JSON objects, wherever in the answer they stand. An answer without any braces that is whole may say it
/// in words: then it is the first number.
///
/// # Errors
/// An answer without a score, with several that differ, or with one that is none of the scale.
pub fn read_judgement(answer: &str, is_cut: bool) -> Result<Judgement, (Dropped, String)> {
    let (mut scores, mut rationale) = (Vec::new(), None);
    for object in &objects(answer) {
        if let Some(said) = value(object, &SCORE) {
            scores.extend(number_of(said));
            let words = value(object, &WORDS).and_then(Value::as_str);
            rationale = words.map(|words| words.trim().to_owned());
        }
    }
    if !is_cut && !answer.contains('{') {
        scores.extend(first_number(answer));
        rationale = Some(answer.trim().to_owned());
    }
    scores.dedup();
    let wrong = |what: String| Err((Dropped::NoScore, what));
    match scores.as_slice() {
        [score] if (LEAST..=MOST).contains(score) => Ok(Judgement {
            score: *score,
            rationale,
        }),
        [score] => wrong(format!(
            "a score of {score} is not between {LEAST} and {MOST}"
        )),
        [] => {
            let start: String = answer.trim().chars().take(60).collect();
            wrong(format!("it begins with {start:?}"))
        }
        several => wrong(format!("{} scores are said", several.len())),
    }
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => WrittenNumber::at_start(text)?.value(MOST),
        _ => None,
    }
}

/// A number with its sign, if a letter does not stand right before it.
fn first_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let start = (0..bytes.len()).find(|&at| {
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        bytes[at].is_ascii_digit() && !after_word
    })?;
    let sign = usize::from(start > 0 && bytes[start - 1] == b'-');
    WrittenNumber::at_start(&text[start - sign..])?.value(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_where_they_stand() {
        let score = |answer: &str| read_judgement(answer, false).map(|found| found.score);
        for (answer, expected) in [
            (r#"{"rationale": "a loop", "score": 4}"#, 4.0),
            (r#"{"score": "2"}"#, 2.0),
            ("```json\n{\"educational_value\": 3.5}\n```", 3.5),
            ("Score: 4/5. A clear example.", 4.0),
            ("I would say 3.", 3.0),
            ("**5**", 5.0),
            ("def f1(): scores 2", 2.0),
            (r#"{"score": "4/5"}"#, 4.0),
            (
                r#"{a: 1} is a set of 3? {"Score": 4}, so {"score": 4}"#,
                4.0,
            ),
            (r#"It is {"value": "x"}: {"score": 4}"#, 4.0),
        ] {
            assert_eq!(score(answer), Ok(expected), "{answer}");
        }
        for answer in [
            "",
            "high",
            "0",
            "7",
            "-3",
            "10/10",
            "4/10",
            "Score: 4 out of 10",
            "A score of 3-4",
            r#"{"score": "4/10"}"#,
            r#"{"rationale": "defines 2 functions that"#,
            r#"{"rationale": "prints "3" twice", "score": 4}"#,
            r#"{"score": 2} {"score": 4}"#,
            r#"{"score": 2, "score": 4}"#,
            r#"{"score": null}"#,
            r#"{"score": []}"#,
            r#"{"other": 3}"#,
            "{ no json: 9 }",
            "1.2.3",
            "🦀",
            "}{",
        ] {
            assert_eq!(score(answer).unwrap_err().0, Dropped::NoScore, "{answer}");
        }
        let whole = r#"{"rationale": " clear ", "score": 5}"#;
        let with_reason = read_judgement(&format!("{whole} It has 3"), true).unwrap();
        assert_eq!(with_reason.rationale.as_deref(), Some("clear"));
        for cut in ["It defines 2 functions that", "Score: 4"] {
            assert_eq!(read_judgement(cut, true).unwrap_err().0, Dropped::NoScore);
        }
    }
}

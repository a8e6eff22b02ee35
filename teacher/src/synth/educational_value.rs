//! How much a piece of code teaches: a teacher's score from 1 to 5 (phi-1, arXiv 2306.11644, section 2.1).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use datasets::sample::Sample;

use super::asker::Asker;
use super::generate::{Plan, answer_seed};
use super::in_order::{Answered, Dropped};
use super::record::{Lineage, Record};
use crate::error::TeacherError;

pub const LEAST: f64 = 1.0;
pub const MOST: f64 = 5.0;
/// What a score may stand under.
const KEYS: [&str; 3] = ["score", "educational_value", "value"];

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
        let judgement = read_judgement(record.answer())?;
        Ok(Label {
            record: asked.record,
            high: judgement.score >= high_from,
            judgement,
            lineage: record.lineage,
        })
    }))
}

/// The score out of a JSON object, wherever in the answer it stands; without one the first number.
pub fn read_judgement(answer: &str) -> Result<Judgement, (Dropped, String)> {
    let object = answer.find('{').zip(answer.rfind('}'));
    let object = object.and_then(|(start, end)| answer.get(start..=end));
    let fields = object.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let found = match &fields {
        Some(fields) => KEYS.iter().find_map(|key| number_of(fields.get(*key)?)),
        None => first_number(answer),
    };
    let said = || {
        let start: String = answer.trim().chars().take(60).collect();
        format!("it begins with {start:?}")
    };
    let score = found.ok_or_else(|| (Dropped::NoScore, said()))?;
    if !(LEAST..=MOST).contains(&score) {
        let why = format!("a score of {score} is not between {LEAST} and {MOST}");
        return Err((Dropped::NoScore, why));
    }
    let text = |key: &str| Some(fields.as_ref()?.get(key)?.as_str()?.trim().to_owned());
    let rationale = match &fields {
        Some(_) => text("rationale").or_else(|| text("reason")),
        None => Some(answer.trim().to_owned()),
    };
    Ok(Judgement { score, rationale })
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A number with its sign and its fraction, if a letter does not stand right before it.
fn first_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let start = (0..bytes.len()).find(|&at| {
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        bytes[at].is_ascii_digit() && !after_word
    })?;
    let number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let end = start
        + bytes[start..]
            .iter()
            .take_while(|byte| number(byte))
            .count();
    let value: f64 = text[start..end].trim_end_matches('.').parse().ok()?;
    match start > 0 && bytes[start - 1] == b'-' {
        true => Some(-value),
        false => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_where_they_stand() {
        let score = |answer: &str| read_judgement(answer).map(|found| found.score);
        for (answer, expected) in [
            (r#"{"rationale": "a loop", "score": 4}"#, 4.0),
            (r#"{"score": "2"}"#, 2.0),
            ("```json\n{\"educational_value\": 3.5}\n```", 3.5),
            ("Score: 4/5. A clear example.", 4.0),
            ("I would say 3.", 3.0),
            ("**5**", 5.0),
            ("def f1(): scores 2", 2.0),
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
        let with_reason = read_judgement(r#"{"rationale": " clear ", "score": 5}"#).unwrap();
        assert_eq!(with_reason.rationale.as_deref(), Some("clear"));
    }
}

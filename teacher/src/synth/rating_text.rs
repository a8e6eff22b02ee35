//! Ratings out of what a judge writes: JSON, or lines such as `Helpfulness: 4/5`. What is not plainly said is not a rating.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::in_order::Dropped;
use super::json_in_text::{objects, plain, value};
use super::patterns::{WrittenNumber, fixed};
use super::spoken::without_thoughts;

/// The scale of every aspect is 1 to this.
pub const BEST: u8 = 5;

/// Names of a number and of the words that go with it.
const NUMBER: [&str; 2] = ["rating", "score"];
const WORDS: [&str; 4] = ["rationale", "reason", "explanation", "justification"];

/// What a judge says of one aspect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AspectRating {
    /// 1 to [`BEST`].
    pub rating: u8,
    pub rationale: String,
}

/// The rating of every aspect.
///
/// # Errors
/// An aspect without a number, with several that differ, or with one that is none of the scale.
pub fn read_ratings(
    text: &str,
    aspects: &[String],
) -> Result<BTreeMap<String, AspectRating>, (Dropped, String)> {
    let text = without_thoughts(text);
    let mut said = Said::default();
    for object in &objects(text) {
        said.read_object(object, aspects);
    }
    if said.is_empty() {
        said.read_lines(text, aspects);
    }
    let rating = |aspect: &String| Ok((aspect.clone(), said.rating(aspect)?));
    aspects.iter().map(rating).collect()
}

/// A number as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Number {
    Rating(u8),
    /// Something else than 1 to 5.
    Other(String),
}

impl Number {
    fn of(value: Option<f64>, written: &str) -> Self {
        let is_rating =
            |value: &f64| value.fract() == 0.0 && (1.0..=f64::from(BEST)).contains(value);
        match value.filter(is_rating) {
            Some(value) => Self::Rating(value as u8),
            None => Self::Other(written.to_owned()),
        }
    }
}

#[derive(Debug, Default)]
struct Said {
    numbers: BTreeMap<String, Vec<Number>>,
    rationales: BTreeMap<String, String>,
}

impl Said {
    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn number(&mut self, aspect: &str, number: Number) {
        let numbers = self.numbers.entry(aspect.to_owned()).or_default();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }

    fn rationale(&mut self, aspect: &str, text: &str) {
        let text = text.trim_matches(|c: char| c.is_whitespace() || "-–—:*_|\",".contains(c));
        if !text.is_empty() {
            self.rationales.insert(aspect.to_owned(), text.to_owned());
        }
    }

    fn rating(&self, aspect: &str) -> Result<AspectRating, (Dropped, String)> {
        match self.numbers.get(aspect).map(Vec::as_slice) {
            None | Some([]) => Err((Dropped::NoRating, format!("no number for `{aspect}`"))),
            Some([Number::Rating(rating)]) => Ok(AspectRating {
                rating: *rating,
                rationale: self.rationales.get(aspect).cloned().unwrap_or_default(),
            }),
            Some([Number::Other(found)]) => {
                Err((Dropped::OutOfRange, format!("`{aspect}`: `{found}`")))
            }
            Some(several) => {
                let count = several.len();
                Err((
                    Dropped::NoRating,
                    format!("{count} different numbers for `{aspect}`"),
                ))
            }
        }
    }

    /// The aspects of an object, or of those within it.
    fn read_object(&mut self, object: &Map<String, Value>, aspects: &[String]) {
        let mut none = true;
        for aspect in aspects {
            let Some(found) = value(object, &[&plain(aspect)]) else {
                continue;
            };
            none = false;
            let number = match found {
                Value::Object(parts) => {
                    if let Some(Value::String(words)) = value(parts, &WORDS) {
                        self.rationale(aspect, words);
                    }
                    value(parts, &NUMBER)
                }
                other => Some(other),
            };
            match number {
                Some(Value::String(text)) => self.read_rest(aspect, text),
                Some(Value::Number(number)) => {
                    self.number(aspect, Number::of(number.as_f64(), &number.to_string()));
                }
                _ => {}
            }
        }
        if none {
            for nested in object.values().filter_map(Value::as_object) {
                self.read_object(nested, aspects);
            }
        }
    }

    fn read_lines(&mut self, text: &str, aspects: &[String]) {
        let patterns: Vec<(&String, Option<Regex>)> = (aspects.iter())
            .map(|aspect| (aspect, line_of(&plain(aspect))))
            .collect();
        let mut current: Option<&String> = None;
        for line in text.lines() {
            let named = patterns.iter().find_map(|(aspect, pattern)| {
                let found = pattern.as_ref()?.find(line)?;
                Some((*aspect, &line[found.end()..]))
            });
            if let Some((aspect, rest)) = named {
                current = Some(aspect);
                self.read_rest(aspect, rest);
            } else if let Some(aspect) = current {
                if let Some(found) = RATING_LINE.find(line) {
                    self.read_rest(aspect, &line[found.end()..]);
                } else if let Some(found) = RATIONALE_LINE.find(line) {
                    self.rationale(aspect, &line[found.end()..]);
                }
            }
        }
    }

    /// What follows an aspect's name: perhaps a number, perhaps words.
    fn read_rest(&mut self, aspect: &str, rest: &str) {
        let Some(found) = WrittenNumber::at_start(rest) else {
            return self.rationale(aspect, rest);
        };
        let written = match (found.is_whole, found.scale) {
            (true, None) => found.digits.to_owned(),
            (true, Some(scale)) => format!("{}/{scale}", found.digits),
            (false, _) => rest.trim().chars().take(20).collect(),
        };
        self.number(aspect, Number::of(found.value(f64::from(BEST)), &written));
        self.rationale(aspect, found.after);
    }
}

/// What may stand before a name at the start of a line: marks, and the number of a list.
const BEFORE: &str = r#"(?i)^[\s>|#*_"'`•\-]*(?:\d+[.)]\s*)?[\s*_"'`]*"#;
/// What may stand between a name and what is said of it.
const BETWEEN: &str =
    r#"[*_"'`]*(?:\s*\([^)]*\))?(?:\s+(?:score|rating))?[*_"'`]*\s*(?:[:=|]|[-–—]\s|$)"#;

/// A line that begins with the aspect's name.
fn line_of(aspect: &str) -> Option<Regex> {
    let words: Vec<String> = aspect.split('_').map(regex::escape).collect();
    Regex::new(&format!("{BEFORE}{}{BETWEEN}", words.join(r"[\s_-]+"))).ok()
}

static RATING_LINE: LazyLock<Regex> =
    LazyLock::new(|| fixed(&format!("{BEFORE}(?:{}){BETWEEN}", NUMBER.join("|"))));
static RATIONALE_LINE: LazyLock<Regex> =
    LazyLock::new(|| fixed(&format!("{BEFORE}(?:{}){BETWEEN}", WORDS.join("|"))));

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<[u8; 2], Dropped> {
        let aspects = ["honesty".to_owned(), "instruction_following".to_owned()];
        let found = read_ratings(text, &aspects).map_err(|(why, _)| why)?;
        Ok([0, 1].map(|at| found[&aspects[at]].rating))
    }

    #[test]
    fn json_however_it_stands_there() {
        for text in [
            r#"{"honesty": 4, "instruction_following": 2}"#,
            r#"{"honesty": {"rationale": "r", "rating": 4}, "instruction_following": {"score": 2.0}}"#,
            "Here it is:\n```json\n{\"honesty\": 4,\n \"instruction_following\": \"2\"}\n```\nGood.",
            r#"{"ratings": {"Honesty": "4/5", "Instruction Following": "2 out of 5"}}"#,
            r#"<think>{"honesty": 1}</think>{"honesty": 4, "instruction-following": 2}"#,
            r#"{"honesty": 4} and {"instruction_following": 2}"#,
            r#"I {think} so: {"honesty": 4, "instruction_following": 2}"#,
            r#"{"honesty": 4, "instruction_following": 2} {"honesty": 4}"#,
        ] {
            assert_eq!(read(text), Ok([4, 2]), "{text}");
        }
    }

    #[test]
    fn lines_however_they_are_written() {
        for text in [
            "Honesty: 4\nInstruction Following: 2",
            "honesty = 4/5\ninstruction_following = 2/5",
            "1. **Honesty**: 4 - it is.\n2. **Instruction-following:** 2",
            "- Honesty (1-5): 4\n- Instruction following (1-5): 2 out of 5",
            "| Honesty | 4 | fine |\n| Instruction Following | 2 | no |",
            "### Honesty\nRating: 4\nRationale: it is 100 % sure\n\n### Instruction following\nRating: 2",
            "Honesty score: **4**/5\nInstruction following rating: [2]",
            "Honesty:\nhm\nScore: 4.0\nInstruction following - 2.",
            "{\n  \"honesty\": {\n    \"rationale\": \"cut\",\n    \"rating\": 4\n  },\n  \"instruction_following\": 2,",
        ] {
            assert_eq!(read(text), Ok([4, 2]), "{text}");
        }
    }

    #[test]
    fn what_is_not_plainly_said_is_no_rating() {
        for text in [
            "",
            "A fine answer.",
            "Honesty: 4",
            r#"{"honesty": 4}"#,
            r#"{"honesty": 4, "instruction_following": null}"#,
            r#"{"honesty": 4, "instruction_following": {"rationale": "2"}}"#,
            r#"{"honesty": 4, "instruction_following": [2]}"#,
            r#"{"honesty": {"rationale": "cut at"#,
            r#"{"honesty": 2, "honesty": 4, "instruction_following": 2}"#,
            r#"{"Honesty": 2, "honesty": 4, "instruction_following": 2}"#,
            r#"{"honesty": {"rating": 2, "Rating": 4}, "instruction_following": 2}"#,
            "<think>Honesty: 4\nInstruction following: 2",
            "Honesty: four\nInstruction following: two",
            "Honesty: it deserves a 4\nInstruction following: 2",
            "Its honesty: 4, instruction following: 2",
            "Honesty: 4\nHonesty: 3\nInstruction following: 2",
            r#"{"honesty": 1, "instruction_following": 2} no: {"honesty": 4, "instruction_following": 2}"#,
            "Rating: 4\nRating: 2",
        ] {
            assert_eq!(read(text), Err(Dropped::NoRating), "{text}");
        }
        for number in [
            "0",
            "6",
            "10",
            "-4",
            "4.5",
            "4,5",
            "8/10",
            "4/10",
            "3-4",
            "3 to 4",
            "3 or 4",
            "80%",
            "4th",
            "99999999999999999999",
        ] {
            let text = format!("Honesty: {number}\nInstruction following: 2");
            assert_eq!(read(&text), Err(Dropped::OutOfRange), "{text}");
        }
        let text = r#"{"honesty": 4, "instruction_following": 7}"#;
        assert_eq!(read(text), Err(Dropped::OutOfRange));
        let text = r#"{"honesty": 4, "instruction_following": 3.5}"#;
        assert_eq!(read(text), Err(Dropped::OutOfRange));
    }

    #[test]
    fn rationales_go_with_their_aspects() {
        let aspects = ["honesty".to_owned()];
        for text in [
            r#"{"honesty": {"rationale": "It says so.", "rating": 4}}"#,
            "Honesty: 4/5 - It says so.",
            "Honesty\nRationale: It says so.\nRating: 4",
            "| Honesty | 4 | It says so. |",
        ] {
            let found = read_ratings(text, &aspects).unwrap();
            assert_eq!(found["honesty"].rationale, "It says so.", "{text}");
        }
        let (why, said) = read_ratings("Honesty: 4.5", &aspects).unwrap_err();
        assert_eq!(
            (why, said.as_str()),
            (Dropped::OutOfRange, "`honesty`: `4.5`")
        );
    }
}

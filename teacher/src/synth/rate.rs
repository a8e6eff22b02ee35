//! Ratings of answers, aspect by aspect (UltraFeedback, arXiv 2310.01377; here one request rates all aspects of one answer).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datasets::answers::AnswerRecord;
use datasets::sample::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::asker::Asker;
use super::in_order::{Answered, Dropped, dropped_by};
use super::instruction::request;
use super::prompt::{PromptFile, Variables};
use super::rating_text::read_ratings;
pub use super::rating_text::{AspectRating, BEST};
use super::record::Judgement;
use crate::error::TeacherError;
use crate::remote::request::{Request, Sampling, hex_digest};

/// An answer to be rated. Those to equal prompts are of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// From 0, in the order in which prompts first appear.
    pub group: usize,
    pub prompt: Arc<Vec<Message>>,
    pub answer: String,
    /// Who wrote it, where its record says so.
    pub model: Option<String>,
    pub source: AnswerSource,
}

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerSource {
    /// Place of its data in the stage's list, and number of its record there, from 0.
    pub data: usize,
    pub record: usize,
    /// SHA-256 of prompt and answer.
    pub digest: String,
    /// What its record says of its own origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Value>,
}

/// What the template of a rating can name.
pub const RATING_VARIABLES: [&str; 4] = ["prompt", "completion", "messages", "aspects"];

#[derive(Serialize)]
struct RatingVariables<'a> {
    #[serde(flatten)]
    answered: Variables,
    aspects: &'a [String],
}

/// How answers are rated.
#[derive(Debug, Clone)]
pub struct Plan {
    pub system: Option<String>,
    pub prompt: PromptFile,
    pub aspects: Vec<String>,
    pub sampling: Sampling,
    /// Ask the server for JSON of a schema.
    pub schema: bool,
}

/// What a judge says of one answer: a line of `ratings.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rating {
    pub group: usize,
    pub prompt: Vec<Message>,
    pub answer: String,
    pub ratings: BTreeMap<String, AspectRating>,
    /// Over the aspects.
    pub mean: f64,
    pub model: Option<String>,
    pub lineage: RatingLineage,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatingLineage {
    pub answer: AnswerSource,
    pub judgement: Judgement,
}

impl AnswerSource {
    pub fn new(data: usize, record: &AnswerRecord) -> Self {
        let described = json!([record.prompt, record.answer]);
        Self {
            data,
            record: record.number,
            digest: hex_digest(described.to_string().as_bytes()),
            lineage: record.fields.get("lineage").cloned(),
        }
    }

    /// Who wrote it.
    pub fn model(&self) -> Option<String> {
        let model = self.lineage.as_ref()?.get("model")?;
        model.as_str().map(str::to_owned)
    }
}

/// The answers of all data, group after group, within a group in the order of the data.
pub fn candidates(data: Vec<Vec<AnswerRecord>>) -> Vec<Candidate> {
    let mut groups: Vec<Vec<Candidate>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (place, records) in data.into_iter().enumerate() {
        for record in records {
            let described = json!(record.prompt).to_string();
            let group = *known.entry(described).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            let source = AnswerSource::new(place, &record);
            let prompt = match groups[group].first() {
                Some(first) => first.prompt.clone(),
                None => Arc::new(record.prompt),
            };
            groups[group].push(Candidate {
                group,
                prompt,
                answer: record.answer,
                model: source.model(),
                source,
            });
        }
    }
    groups.into_iter().flatten().collect()
}

/// The rating of one answer.
///
/// # Errors
/// Those that end the whole stage.
pub async fn rate(
    asker: &Asker,
    plan: &Plan,
    candidate: &Candidate,
) -> Result<Answered<Rating>, TeacherError> {
    let request = plan.request(candidate)?;
    let mut answered = Answered::default();
    let asked = match asker.ask(&request).await {
        Ok(asked) => asked,
        Err(error) => {
            answered.dropped.push(dropped_by(error)?);
            return Ok(answered);
        }
    };
    let choice = asked.answer.choices.into_iter().next().unwrap_or_default();
    let read = match choice.text.trim().is_empty() {
        true => Err((Dropped::EmptyAnswer, "the judge says nothing".to_owned())),
        false => read_ratings(&choice.text, &plan.aspects),
    };
    let ratings = match read {
        Ok(ratings) => ratings,
        Err((why, said)) => {
            answered.dropped.push((why, said + choice.cut_note()));
            return Ok(answered);
        }
    };
    let sum: u32 = (ratings.values())
        .map(|aspect| u32::from(aspect.rating))
        .sum();
    answered.records.push(Rating {
        group: candidate.group,
        prompt: candidate.prompt.to_vec(),
        answer: candidate.answer.clone(),
        mean: f64::from(sum) / ratings.len() as f64,
        ratings,
        model: candidate.model.clone(),
        lineage: RatingLineage {
            answer: candidate.source.clone(),
            judgement: Judgement {
                model: asker.model(),
                prompt: plan.prompt.digest(),
                parameters: plan.sampling.clone(),
                requests: vec![asked.key],
            },
        },
    });
    Ok(answered)
}

impl Plan {
    fn request(&self, candidate: &Candidate) -> Result<Request, TeacherError> {
        let question = self.prompt.render(&RatingVariables {
            answered: Variables::of_answer(&candidate.prompt, &candidate.answer),
            aspects: &self.aspects,
        })?;
        Ok(Request {
            schema: self.schema.then(|| schema(&self.aspects)),
            ..request(question, self.system.as_deref(), &self.sampling, 0)
        })
    }
}

/// A rationale, then a number, for each aspect: in this order the number follows from the words.
fn schema(aspects: &[String]) -> Value {
    let scale: Vec<u8> = (1..=BEST).collect();
    let aspect = json!({
        "type": "object",
        "properties": {
            "rationale": { "type": "string" },
            "rating": { "type": "integer", "enum": scale },
        },
        "required": ["rationale", "rating"],
        "additionalProperties": false,
    });
    let properties: serde_json::Map<String, Value> = (aspects.iter())
        .map(|name| (name.clone(), aspect.clone()))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": aspects,
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::request::Input;

    fn record(number: usize, prompt: &[&str], answer: &str, model: Option<&str>) -> AnswerRecord {
        let lineage = model.map(|model| ("lineage".to_owned(), json!({ "model": model })));
        AnswerRecord {
            number,
            prompt: (prompt.iter())
                .map(|text| Message::new("user", *text))
                .collect(),
            answer: answer.into(),
            fields: lineage.into_iter().collect(),
        }
    }

    #[test]
    fn answers_to_equal_prompts_are_a_group_across_data() {
        let data = vec![
            vec![
                record(0, &["p"], "a", Some("m")),
                record(1, &["q"], "b", None),
                record(3, &["p"], "c", Some("m")),
            ],
            vec![
                record(0, &["q"], "d", Some("n")),
                record(1, &["q "], "e", None),
                record(2, &["s", "p"], "f", None),
                record(3, &["p"], "a", None),
            ],
        ];
        let found: Vec<(usize, String, usize, usize)> = candidates(data)
            .into_iter()
            .map(|it| (it.group, it.answer, it.source.data, it.source.record))
            .collect();
        let expected = [
            (0, "a", 0, 0),
            (0, "c", 0, 3),
            (0, "a", 1, 3),
            (1, "b", 0, 1),
            (1, "d", 1, 0),
            (2, "e", 1, 1),
            (3, "f", 1, 2),
        ];
        let expected: Vec<_> = (expected.iter())
            .map(|&(group, answer, data, record)| (group, answer.to_owned(), data, record))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_request_shows_the_answer_and_asks_for_every_aspect() {
        let plan = Plan {
            system: Some("Judge.".into()),
            prompt: PromptFile::built_in(
                "rate.jinja",
                "{{ prompt }} {{ completion }} {{ messages | length }} {{ aspects | join('+') }}",
            ),
            aspects: vec!["honesty".into(), "style".into()],
            sampling: Sampling::default(),
            schema: true,
        };
        plan.prompt.check(&RATING_VARIABLES).unwrap();
        let found = candidates(vec![vec![record(0, &["s", "p"], "a", None)]]);
        let request = plan.request(&found[0]).unwrap();
        let Input::Chat(messages) = request.input else {
            panic!("a chat");
        };
        assert_eq!(messages[1].content, "p a 2 honesty+style");
        let schema = request.schema.unwrap();
        assert_eq!(schema["required"], json!(["honesty", "style"]));
        let rating = &schema["properties"]["style"]["properties"]["rating"];
        assert_eq!(rating["enum"], json!([1, 2, 3, 4, 5]));
    }
}

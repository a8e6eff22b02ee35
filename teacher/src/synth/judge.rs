//! Two answers to each prompt, compared by a judge in both orders (MT-bench, arXiv 2306.05685).

use std::collections::{HashMap, VecDeque};

use datasets::answers::AnswerRecord;
use datasets::sample::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::asker::Asker;
use super::in_order::{Answered, dropped_by};
use super::instruction::request;
use super::prompt::PromptFile;
use super::rate::AnswerSource;
use super::record::Judgement;
use super::verdict::{Verdict, VerdictCounts, Winner, read_verdict};
use crate::error::TeacherError;
use crate::remote::request::{Request, Sampling};

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    pub prompt: Vec<Message>,
    pub a: String,
    pub b: String,
    pub sources: MatchSources,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatchSources {
    pub a: AnswerSource,
    pub b: AnswerSource,
}

/// What the template of a comparison can name.
pub const JUDGE_VARIABLES: [&str; 4] = ["prompt", "messages", "answer_a", "answer_b"];

#[derive(Serialize)]
struct JudgeVariables<'a> {
    prompt: &'a str,
    messages: &'a [Message],
    answer_a: &'a str,
    answer_b: &'a str,
}

/// How answers are compared.
#[derive(Debug, Clone)]
pub struct Plan {
    pub system: Option<String>,
    pub prompt: PromptFile,
    pub sampling: Sampling,
    /// Ask the server for JSON of a schema.
    pub schema: bool,
}

/// What a judge says of two answers: a line of the stage's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub prompt: Vec<Message>,
    pub a: String,
    pub b: String,
    /// With `a` shown first, then with `b`; none where the answers are equal.
    pub verdicts: Vec<Said>,
    pub winner: Winner,
    pub lineage: ComparisonLineage,
}

/// One verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub verdict: Verdict,
    pub winner: Winner,
    pub rationale: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonLineage {
    #[serde(flatten)]
    pub answers: MatchSources,
    pub judgement: Judgement,
}

/// Joins answers by their prompts, the first to a prompt with the first, and counts those that stay alone.
pub fn matches(a: Vec<AnswerRecord>, b: Vec<AnswerRecord>) -> (Vec<Match>, usize) {
    let mut waiting: HashMap<String, VecDeque<AnswerRecord>> = HashMap::new();
    for record in b {
        let described = json!(record.prompt).to_string();
        waiting.entry(described).or_default().push_back(record);
    }
    let (mut found, mut alone) = (Vec::new(), 0);
    for record in a {
        let others = waiting.get_mut(&json!(record.prompt).to_string());
        let Some(other) = others.and_then(VecDeque::pop_front) else {
            alone += 1;
            continue;
        };
        found.push(Match {
            sources: MatchSources {
                a: AnswerSource::new(0, &record),
                b: AnswerSource::new(1, &other),
            },
            prompt: record.prompt,
            a: record.answer,
            b: other.answer,
        });
    }
    alone += waiting.values().map(VecDeque::len).sum::<usize>();
    (found, alone)
}

/// The comparison of one pair.
///
/// # Errors
/// Those that end the whole stage.
pub async fn judge(
    asker: &Asker,
    plan: &Plan,
    both: &Match,
) -> Result<Answered<Comparison>, TeacherError> {
    let mut answered = Answered::default();
    let (mut verdicts, mut requests) = (Vec::new(), Vec::new());
    let orders: &[bool] = match both.a.trim() == both.b.trim() {
        true => &[],
        false => &[true, false],
    };
    for &a_first in orders {
        let asked = match asker.ask(&plan.request(both, a_first)?).await {
            Ok(asked) => asked,
            Err(error) => {
                answered.dropped.push(dropped_by(error)?);
                return Ok(answered);
            }
        };
        let choice = asked.answer.choices.into_iter().next().unwrap_or_default();
        match read_verdict(&choice.text) {
            Ok((verdict, rationale)) => verdicts.push(Said {
                verdict,
                winner: Winner::of(verdict, a_first),
                rationale,
            }),
            Err((why, said)) => {
                let said = said + choice.cut_note();
                answered.dropped.push((why, said));
                return Ok(answered);
            }
        }
        requests.push(asked.key);
    }
    let winner = match verdicts.as_slice() {
        [one, other] if one.winner == other.winner => one.winner,
        _ => Winner::Tie,
    };
    answered.records.push(Comparison {
        prompt: both.prompt.clone(),
        a: both.a.clone(),
        b: both.b.clone(),
        verdicts,
        winner,
        lineage: ComparisonLineage {
            answers: both.sources.clone(),
            judgement: Judgement {
                model: asker.model(),
                prompt: plan.prompt.digest(),
                parameters: plan.sampling.clone(),
                requests,
            },
        },
    });
    Ok(answered)
}

impl Plan {
    fn request(&self, both: &Match, a_first: bool) -> Result<Request, TeacherError> {
        let (answer_a, answer_b) = match a_first {
            true => (&both.a, &both.b),
            false => (&both.b, &both.a),
        };
        let asked = both.prompt.iter().rfind(|turn| turn.role == "user");
        let question = self.prompt.render(&JudgeVariables {
            prompt: asked.map_or("", |turn| turn.content.as_str()),
            messages: &both.prompt,
            answer_a,
            answer_b,
        })?;
        Ok(Request {
            schema: self.schema.then(schema),
            ..request(question, self.system.as_deref(), &self.sampling, 0)
        })
    }
}

/// Reasons first: so the verdict follows from them.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "rationale": { "type": "string" },
            "winner": { "type": "string", "enum": ["A", "B", "tie"] },
        },
        "required": ["rationale", "winner"],
        "additionalProperties": false,
    })
}

impl VerdictCounts {
    pub fn count(&mut self, comparison: &Comparison) {
        let agreed = match comparison.verdicts.as_slice() {
            [one, other] if one.winner == other.winner => match one.winner {
                Winner::A => &mut self.wins,
                Winner::B => &mut self.losses,
                Winner::Tie => &mut self.ties,
            },
            [] => &mut self.equal,
            _ => &mut self.inconsistent,
        };
        *agreed += 1;
        for said in &comparison.verdicts {
            self.decided += u64::from(said.verdict != Verdict::Tie);
            self.for_first += u64::from(said.verdict == Verdict::First);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize, prompt: &str, answer: &str) -> AnswerRecord {
        AnswerRecord {
            number,
            prompt: vec![Message::new("user", prompt)],
            answer: answer.into(),
            fields: serde_json::Map::new(),
        }
    }

    #[test]
    fn answers_meet_by_their_prompts() {
        let a = vec![
            record(0, "p", "a0"),
            record(1, "q", "a1"),
            record(2, "p", "a2"),
            record(3, "r", "a3"),
        ];
        let b = vec![
            record(0, "s", "b0"),
            record(1, "p", "b1"),
            record(2, "p", "b2"),
            record(3, "q", "b3"),
            record(4, "q", "b4"),
        ];
        let (found, alone) = matches(a, b);
        let pairs: Vec<(&str, &str)> = (found.iter())
            .map(|both| (both.a.as_str(), both.b.as_str()))
            .collect();
        assert_eq!(pairs, [("a0", "b1"), ("a1", "b3"), ("a2", "b2")]);
        assert_eq!(alone, 3);
        assert_eq!(found[1].sources.b.record, 3);
    }
}

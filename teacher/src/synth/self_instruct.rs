//! Self-Instruct (arXiv 2212.10560): a teacher goes on with a list of instructions, and what is new joins the pool that the
//! next list is drawn from.
//!
//! Requests go out in rounds of a fixed number. The pool changes between rounds only, in the order of the requests: so what
//! is asked, and what comes of it, does not depend on which answer comes first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datasets::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::asker::Asker;
use super::in_order::{Answered, Dropped, Outcome, Recording, ask_in_order, dropped_by};
use super::instruction::{Instruction, Seed, request};
use super::instruction_pool::Pool;
use super::numbered_list::items;
use super::prompt::PromptFile;
use super::spoken::Spoken;
use crate::error::TeacherError;
use crate::remote::request::{Request, Sampling};

/// What the template sees: the texts of the examples, and how many instructions to ask for.
pub const VARIABLES: [&str; 2] = ["examples", "count"];

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelfInstruct {
    /// How many instructions are made.
    #[schemars(range(min = 1))]
    pub instructions: usize,
    /// A template that asks for a numbered list of new instructions.
    pub prompt: PromptFile,
    /// Examples that a request shows.
    #[serde(default = "eight")]
    #[schemars(range(min = 1))]
    pub shots: usize,
    /// Of the `shots`, how many are instructions that were made, where there are so many.
    #[serde(default = "two")]
    pub generated_shots: usize,
    /// Instructions that a request asks for.
    #[serde(default = "eight")]
    #[schemars(range(min = 1))]
    pub count: usize,
    /// Requests that see the same pool of instructions.
    #[serde(default = "eight")]
    #[schemars(range(min = 1))]
    pub requests_per_round: usize,
    /// Requests at the most. As many as `instructions` when left out.
    #[schemars(range(min = 1))]
    pub max_requests: Option<usize>,
    /// Fewest words of an instruction.
    #[serde(default = "four")]
    pub min_words: usize,
    /// Most words of an instruction.
    #[serde(default = "a_hundred_and_fifty")]
    pub max_words: usize,
    /// An instruction that is more like one of the pool (ROUGE-L, 0 to 1) is no new one.
    #[serde(default = "seven_tenths")]
    #[schemars(range(min = 0, max = 1))]
    pub max_rouge_l: f64,
    /// Words and phrases of instructions that text alone cannot follow.
    #[serde(default = "not_of_text")]
    pub forbid: Vec<String>,
}

fn two() -> usize {
    2
}

fn four() -> usize {
    4
}

fn eight() -> usize {
    8
}

fn a_hundred_and_fifty() -> usize {
    150
}

fn seven_tenths() -> f64 {
    0.7
}

/// The paper's list.
fn not_of_text() -> Vec<String> {
    let words = [
        "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
        "maps", "draw", "plot", "go to",
    ];
    words.map(String::from).to_vec()
}

impl SelfInstruct {
    /// What reads well and makes no sense: the key that it stands under, and what is wrong.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut check = |holds: bool, key, says: &str| {
            if !holds {
                found.push((key, says.to_owned()));
            }
        };
        let counts = [
            ("instructions", self.instructions),
            ("shots", self.shots),
            ("count", self.count),
            ("requests_per_round", self.requests_per_round),
            ("max_requests", self.max_requests()),
        ];
        for (key, count) in counts {
            check(count > 0, key, &format!("`{key}` must be at least 1"));
        }
        check(
            self.generated_shots <= self.shots,
            "generated_shots",
            "`generated_shots` is a part of `shots`",
        );
        check(
            self.min_words <= self.max_words,
            "min_words",
            "`min_words` is at most `max_words`",
        );
        check(
            (0.0..=1.0).contains(&self.max_rouge_l),
            "max_rouge_l",
            "`max_rouge_l` lies between 0 and 1",
        );
        if let Err(error) = self.prompt.check(&VARIABLES) {
            found.push(("prompt", error.to_string()));
        }
        found
    }

    fn max_requests(&self) -> usize {
        self.max_requests.unwrap_or(self.instructions)
    }
}

/// Whom a stage asks how, beside what the mode says.
#[derive(Debug, Clone)]
pub struct Asking {
    pub system: Option<String>,
    /// Its seed is that of everything random.
    pub sampling: Sampling,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// Of the request, and of the instruction in its answer, from 0.
    pub request: usize,
    pub item: usize,
    pub examples: Vec<Example>,
    pub model: String,
    /// SHA-256 of the prompt's file.
    pub prompt: String,
    pub parameters: Sampling,
    pub requests: [String; 1],
}

/// An instruction that was shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Example {
    /// Its number in its data, from 0.
    Seed { seed: usize, digest: String },
    /// Its line in the stage's own data, from 0.
    Made { made: usize },
}

/// A list that came, and what it is kept under.
#[derive(Clone)]
struct List {
    number: usize,
    items: Vec<String>,
    key: String,
}

/// Makes instructions until there are enough, or the requests are used up.
///
/// # Errors
/// As [`ask_in_order`]; a template that cannot be rendered.
pub async fn self_instruct(
    asker: Arc<Asker>,
    config: &SelfInstruct,
    asking: &Asking,
    seeds: &[Seed],
    recording: Recording<'_, Instruction<Lineage>>,
) -> (Outcome, Result<(), TeacherError>) {
    let mut pool = Pool::new(seeds.iter().map(|seed| seed.text.clone()));
    let mut outcome = Outcome::default();
    let seed = asking.sampling.seed.unwrap_or(0);
    while pool.made() < config.instructions && outcome.seeds < config.max_requests() {
        let first = outcome.seeds;
        let last = (first + config.requests_per_round).min(config.max_requests());
        let mut shown = Vec::new();
        let mut requests = Vec::new();
        for number in first..last {
            let mut random = Random::new(seed, "self_instruct", number as u64, "examples");
            let examples = pool.examples(config, &mut random);
            let texts: Vec<&str> = examples.iter().map(|at| pool.text(*at)).collect();
            let variables = serde_json::json!({ "examples": texts, "count": config.count });
            match config.prompt.render(&variables) {
                Ok(text) => requests.push(request(
                    text,
                    asking.system.as_deref(),
                    &asking.sampling,
                    number as u64,
                )),
                Err(error) => return (outcome, Err(error)),
            }
            shown.push(examples);
        }
        let requests = Arc::new(requests);
        let ask = |at: usize| {
            let (asker, requests) = (asker.clone(), requests.clone());
            async move { ask_for_list(&asker, &requests[at], first + at).await }
        };
        let mut lists: Vec<List> = Vec::new();
        let (round, result) = ask_in_order(
            requests.len(),
            asker.concurrency(),
            &ask,
            Recording {
                stop: recording.stop,
                stopping: recording.stopping,
                allow_failed: recording.allow_failed,
                on_record: &mut |list: &List| {
                    lists.push(list.clone());
                    Ok(())
                },
                on_seed: &mut |_| {},
            },
        )
        .await;
        outcome.add(round);
        // What is missing would change every later request: a run that goes on asks for it first.
        let ends = outcome.stopped || outcome.unanswered > recording.allow_failed;
        if result.is_err() || ends {
            return (outcome, result);
        }
        for list in lists {
            let lineage = Lineage {
                request: list.number,
                item: 0,
                examples: (shown[list.number - first].iter())
                    .map(|at| match seeds.get(*at) {
                        Some(seed) => Example::Seed {
                            seed: *at,
                            digest: seed.digest.clone(),
                        },
                        None => Example::Made {
                            made: at - seeds.len(),
                        },
                    })
                    .collect(),
                model: asker.model(),
                prompt: config.prompt.digest(),
                parameters: requests[list.number - first].sampling.clone(),
                requests: [list.key],
            };
            for (item, text) in list.items.iter().enumerate() {
                if pool.made() == config.instructions {
                    break;
                }
                if let Err((why, said)) = pool.add(text, config) {
                    outcome.drop(why, said);
                    continue;
                }
                let lineage = Lineage {
                    item,
                    ..lineage.clone()
                };
                if let Err(error) = (recording.on_record)(&Instruction::new(text, lineage)) {
                    return (outcome, Err(error));
                }
                outcome.records += 1;
                (recording.on_seed)(pool.made());
            }
        }
        if recording.stop.load(Ordering::Relaxed) {
            outcome.stopped = pool.made() < config.instructions;
            return (outcome, Ok(()));
        }
    }
    (outcome, Ok(()))
}

async fn ask_for_list(
    asker: &Asker,
    request: &Request,
    number: usize,
) -> Result<Answered<List>, TeacherError> {
    let mut answered = Answered::default();
    let asked = match asker.ask(request).await {
        Ok(asked) => asked,
        Err(error) => {
            answered.dropped.push(dropped_by(error)?);
            return Ok(answered);
        }
    };
    let choice = asked.answer.choices.into_iter().next().unwrap_or_default();
    let spoken = match Spoken::of(choice) {
        Ok(spoken) => spoken,
        Err(why) => {
            answered.dropped.push(why);
            return Ok(answered);
        }
    };
    let mut items = items(&spoken.text);
    if items.is_empty() {
        let start: String = spoken.text.chars().take(80).collect();
        answered.dropped.push((Dropped::NotAList, start));
    }
    if spoken.is_cut
        && let Some(last) = items.pop()
    {
        answered.dropped.push((Dropped::Cut, last));
    }
    answered.records.push(List {
        number,
        items,
        key: asked.key,
    });
    Ok(answered)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The defaults, with this template.
    pub fn config(template: &str) -> SelfInstruct {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), template).unwrap();
        let config = serde_json::json!({ "instructions": 20, "prompt": file.path() });
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        assert!(config("{{ examples }} {{ count }}").check().is_empty());
        let keys = |config: SelfInstruct| -> Vec<&str> {
            config.check().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(config("{{ prompt }}")), ["prompt"]);
        let wrong = SelfInstruct {
            shots: 1,
            max_requests: Some(0),
            min_words: 151,
            max_rouge_l: f64::NAN,
            ..config("")
        };
        let expected = [
            "max_requests",
            "generated_shots",
            "min_words",
            "max_rouge_l",
        ];
        assert_eq!(keys(wrong), expected);
    }
}

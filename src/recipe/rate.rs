//! What the stage `rate` takes: whose answers are judged, by whom, and what is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::prompt::PromptFile;
use teacher::synth::rate::RATING_VARIABLES;

use super::generate::{invalid_asking, invalid_question};
use super::invalid::{Invalid, require};

/// Lets a teacher rate answers: preference pairs, or the best answers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Rate {
    /// The model that rates; a remote one, too.
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose last turns are rated.
    #[serde(skip_serializing)]
    #[schemars(length(min = 1))]
    pub answers: Vec<String>,
    /// A template that shows the answer.
    #[serde(default = "rate_prompt")]
    #[schemars(extend("default" = "recipes/prompts/rate.jinja"))]
    pub prompt: PromptFile,
    /// The system message. None when left out.
    pub system: Option<String>,
    /// What is rated, each from 1 to 5: small letters, words joined by `_`.
    #[serde(default = "four_aspects")]
    #[schemars(length(min = 1))]
    pub aspects: Vec<String>,
    /// What becomes of the ratings.
    #[serde(default)]
    pub keep: Keep,
    /// How the judge draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// Ask for JSON of a schema. Of a remote judge when left out.
    pub schema: Option<bool>,
    /// Of the draw of rejected answers. The recipe's when left out.
    pub seed: Option<u64>,
    /// What it may cost: a stage that has reached it goes on with a larger one. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Answers that may stay without a rating, where the server never gave one.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = 0))]
    pub allow_failed: usize,
}

/// What becomes of the ratings.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The best answer to each prompt, and a worse one.
    #[default]
    Pairs,
    /// The best answer to each prompt, as a conversation.
    Best,
}

fn rate_prompt() -> PromptFile {
    let text = include_str!("../../recipes/prompts/rate.jinja");
    PromptFile::built_in("recipes/prompts/rate.jinja", text)
}

fn four_aspects() -> Vec<String> {
    [
        "helpfulness",
        "honesty",
        "instruction_following",
        "truthfulness",
    ]
    .map(String::from)
    .to_vec()
}

impl Rate {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        check(
            !self.answers.is_empty(),
            "answers",
            "`answers` names no data",
        );
        for (i, name) in self.answers.iter().enumerate() {
            let says = format!("`{name}` is listed twice");
            let once = !self.answers[..i].contains(name);
            check(once, &format!("answers.{i}"), &says);
        }
        check(
            !self.aspects.is_empty(),
            "aspects",
            "`aspects` names none: there is nothing to rate",
        );
        for (i, name) in self.aspects.iter().enumerate() {
            let key = format!("aspects.{i}");
            let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let says = format!("`{name}` is no aspect: small letters, words joined by `_`");
            check(is_plain && !name.trim_matches('_').is_empty(), &key, &says);
            let says = format!("`{name}` is listed twice");
            check(!self.aspects[..i].contains(name), &key, &says);
        }
        let (prompt, shown) = (&self.prompt, ["completion"]);
        found.extend(invalid_question(prompt, &RATING_VARIABLES, &shown));
        found.extend(invalid_asking(&self.sampling, &self.budget));
        found
    }
}

//! What the stage `judge` takes: two data whose answers are compared, and by whom.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::judge::JUDGE_VARIABLES;
use teacher::synth::prompt::PromptFile;

use super::generate::{invalid_asking, invalid_question};
use super::invalid::{Invalid, require};

/// Lets a teacher compare two answers to each prompt.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Judge {
    /// The model that judges; a remote one, too.
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose answers are compared with those of `b` to the same prompts.
    #[serde(skip_serializing)]
    pub a: String,
    /// Data whose answers are compared with those of `a`.
    #[serde(skip_serializing)]
    pub b: String,
    /// A template that shows both answers.
    #[serde(default = "judge_prompt")]
    #[schemars(extend("default" = "recipes/prompts/judge.jinja"))]
    pub prompt: PromptFile,
    /// The system message. None when left out.
    pub system: Option<String>,
    /// How the judge draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// Ask for JSON of a schema. Of a remote judge when left out.
    pub schema: Option<bool>,
    /// What it may cost: a stage that has reached it goes on with a larger one. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Prompts that may stay without a verdict, where the server never gave one.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = 0))]
    pub allow_failed: usize,
}

fn judge_prompt() -> PromptFile {
    let text = include_str!("../../recipes/prompts/judge.jinja");
    PromptFile::built_in("recipes/prompts/judge.jinja", text)
}

impl Judge {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        require(
            &mut found,
            self.a != self.b,
            "b",
            "`a` and `b` are the same data: there is nothing to compare",
        );
        let shows = |answer| invalid_question(&self.prompt, &JUDGE_VARIABLES, &[answer]);
        found.extend(["answer_a", "answer_b"].into_iter().find_map(shows));
        found.extend(invalid_asking(&self.sampling, &self.budget));
        found
    }
}

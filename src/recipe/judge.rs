//! What the stage `judge` takes: two data whose answers are compared, and by whom.

use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::judge::JUDGE_VARIABLES;
use teacher::synth::prompt::PromptFile;

use super::generate::{invalid_asking, invalid_question};
use super::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Judge {
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose answers to the same prompts are compared.
    #[serde(skip_serializing)]
    pub a: String,
    #[serde(skip_serializing)]
    pub b: String,
    #[serde(default = "judge_prompt")]
    pub prompt: PromptFile,
    pub system: Option<String>,
    #[serde(default)]
    pub sampling: Sampling,
    /// Ask for JSON of a schema; of a remote teacher when left out.
    pub schema: Option<bool>,
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    #[serde(default, skip_serializing)]
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

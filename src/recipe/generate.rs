//! What the stage `generate` takes: whom it asks, what, and at what cost.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::prompt::PromptFile;

use super::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Generate {
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose texts, prompts or conversations are answered.
    #[serde(skip_serializing)]
    pub prompts: String,
    /// A template that writes the question.
    pub prompt: Option<PromptFile>,
    pub system: Option<String>,
    /// Answers of a conversation.
    #[serde(default = "one")]
    pub turns: u32,
    /// A template that asks the teacher for the user's next turn.
    pub user: Option<PromptFile>,
    /// Conversations of a prompt.
    #[serde(default = "one")]
    pub candidates: u32,
    #[serde(default)]
    pub sampling: Sampling,
    /// Log-probabilities of the last answer's tokens, and so many of the best at each place.
    pub logprobs: Option<u32>,
    /// A file with the JSON schema that answers follow.
    pub schema: Option<SchemaFile>,
    /// A limit and no part of what is made: a stage that has reached it goes on with a larger one.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Prompts that may stay without an answer, where the server never gave one.
    #[serde(default, skip_serializing)]
    pub allow_failed: usize,
}

/// A JSON schema, read from its file.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(try_from = "PathBuf", into = "Value")]
pub struct SchemaFile(pub Value);

impl TryFrom<PathBuf> for SchemaFile {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        let failed = |reason: String| format!("the schema {}: {reason}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        let schema: Value =
            serde_json::from_str(&text).map_err(|error| failed(format!("no JSON: {error}")))?;
        match schema.is_object() {
            true => Ok(Self(schema)),
            false => Err(failed("a JSON schema is an object".into())),
        }
    }
}

impl From<SchemaFile> for Value {
    fn from(file: SchemaFile) -> Self {
        file.0
    }
}

fn one() -> u32 {
    1
}

impl Generate {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        check(
            (1..=1024).contains(&self.candidates),
            "candidates",
            "`candidates` lies between 1 and 1024",
        );
        check(self.turns >= 1, "turns", "`turns` must be at least 1");
        check(
            self.turns <= 1 || self.user.is_some(),
            "turns",
            "several `turns` need `user`: a template with which the teacher plays the user",
        );
        check(
            self.logprobs.is_none_or(|top| top <= 20),
            "logprobs",
            "`logprobs` is 20 at most",
        );
        found.extend(check_asking(&self.sampling, &self.budget));
        found
    }
}

/// What every stage that asks a teacher has.
pub fn check_asking(sampling: &Sampling, budget: &Budget) -> Vec<Invalid> {
    let mut found = Vec::new();
    let holds = |dollars: f64| dollars > 0.0 && dollars.is_finite();
    require(
        &mut found,
        budget.dollars.is_none_or(holds),
        "budget.dollars",
        "`dollars` must be above 0",
    );
    let sampling = sampling.check().into_iter();
    found.extend(sampling.map(|(key, says)| Invalid::new(format!("sampling.{key}"), says)));
    found
}

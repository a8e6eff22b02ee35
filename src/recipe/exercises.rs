//! What the stage `exercises` takes: who writes, about what, and at what cost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::prompt::{PromptFile, VARIABLES};

use super::generate::{SchemaFile, invalid_asking, invalid_candidates, invalid_question};
use super::invalid::{Invalid, require};

/// Lets a teacher write exercises in Python about topics.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Exercises {
    /// The model that writes; a remote one, too.
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose texts are topics.
    #[serde(skip_serializing)]
    pub topics: String,
    /// A template that asks for a function about the topic in `prompt`.
    pub prompt: PromptFile,
    /// A file with the JSON schema of an object whose `code` is the function. The function is looked for in the text
    /// when left out.
    pub schema: Option<SchemaFile>,
    /// Exercises of a topic, 1 to 1024.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub candidates: u32,
    /// How the teacher draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// What it may cost: a stage that has reached it goes on with a larger one. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Exercises that may be missing, where the server never gave an answer.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = 0))]
    pub allow_failed: usize,
}

fn one() -> u32 {
    1
}

impl Exercises {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = invalid_asking(&self.sampling, &self.budget);
        require(
            &mut found,
            (1..=1024).contains(&self.candidates),
            "candidates",
            "`candidates` lies between 1 and 1024",
        );
        let has_code = |schema: &SchemaFile| schema.0["properties"]["code"].is_object();
        require(
            &mut found,
            self.schema.as_ref().is_none_or(has_code),
            "schema",
            "the schema has no `properties.code`: the function is read from there",
        );
        found.extend(invalid_candidates(self.candidates, &self.sampling));
        let shown = ["prompt", "messages"];
        found.extend(invalid_question(&self.prompt, &VARIABLES, &shown));
        found
    }
}

//! What the stage `generate` takes: whom it asks, what, and at what cost.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use teacher::remote::account::Budget;
use teacher::remote::request::{Sampling, hex_digest};
use teacher::synth::evol_instruct::EvolInstruct;
use teacher::synth::prompt::{PromptFile, VARIABLES};
use teacher::synth::self_instruct::SelfInstruct;

use super::invalid::{Invalid, require};

/// Lets a teacher answer prompts, or make new ones of them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Generate {
    /// The model that writes; a remote one, too.
    #[serde(skip_serializing)]
    pub teacher: String,
    /// Data whose texts, prompts or conversations are answered.
    #[serde(skip_serializing)]
    pub prompts: String,
    /// What becomes of the prompts.
    #[serde(default, skip_serializing_if = "Mode::is_answer")]
    pub mode: Mode,
    /// A template that writes the question. The prompt itself when left out.
    pub prompt: Option<PromptFile>,
    /// The system message. None when left out.
    pub system: Option<String>,
    /// Answers of a conversation, 1 to 64.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub turns: u32,
    /// A template that asks the teacher for the user's next turn; needed for several `turns`.
    pub user: Option<PromptFile>,
    /// Conversations of a prompt, 1 to 1024.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub candidates: u32,
    /// How the teacher draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// Store the log-probabilities of the last answer's tokens, and of so many of the best at each place, 0 to 20.
    /// Not stored when left out.
    #[schemars(range(min = 0, max = 20))]
    pub logprobs: Option<u32>,
    /// A file with the JSON schema that answers follow.
    pub schema: Option<SchemaFile>,
    /// What it may cost: a stage that has reached it goes on with a larger one. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Prompts that may stay without an answer, where the server never gave one.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = 0))]
    pub allow_failed: usize,
}

/// What becomes of the prompts.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are answered.
    #[default]
    Answer,
    /// They are the seeds of new ones.
    SelfInstruct(SelfInstruct),
    /// Harder ones are made of them.
    EvolInstruct(EvolInstruct),
}

impl Mode {
    fn is_answer(&self) -> bool {
        *self == Self::Answer
    }

    fn check(&self) -> Vec<Invalid> {
        let wrong = match self {
            Self::Answer => Vec::new(),
            Self::SelfInstruct(mode) => mode.check(),
            Self::EvolInstruct(mode) => mode.check(),
        };
        let under = |(key, says)| Invalid::new(format!("mode.{key}"), says);
        wrong.into_iter().map(under).collect()
    }
}

/// A JSON schema, read from its file.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(try_from = "PathBuf", into = "String")]
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

/// Its digest: in a schema the order of the keys counts.
impl From<SchemaFile> for String {
    fn from(file: SchemaFile) -> Self {
        hex_digest(file.0.to_string().as_bytes())
    }
}

/// Above it all tokens are as good as equally probable.
const MOST_TEMPERATURE: f64 = 100.0;

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
        check(
            (1..=64).contains(&self.turns),
            "turns",
            "`turns` lies between 1 and 64",
        );
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
        if !self.mode.is_answer() {
            let answering = [
                ("prompt", self.prompt.is_some()),
                ("turns", self.turns != 1),
                ("user", self.user.is_some()),
                ("candidates", self.candidates != 1),
                ("logprobs", self.logprobs.is_some()),
                ("schema", self.schema.is_some()),
            ];
            for (key, is_set) in answering {
                let says = format!("`{key}` belongs to answering: this `mode` makes instructions");
                check(!is_set, key, &says);
            }
        }
        found.extend(self.mode.check());
        found.extend(invalid_candidates(self.candidates, &self.sampling));
        found.extend(invalid_prompt("prompt", self.prompt.as_ref(), &VARIABLES));
        found.extend(invalid_prompt("user", self.user.as_ref(), &VARIABLES));
        found.extend(invalid_asking(&self.sampling, &self.budget));
        found
    }
}

/// A template that names what it cannot have, or shows nothing of what it asks about: it names one of `shown`.
pub fn invalid_question(
    prompt: &PromptFile,
    variables: &[&str],
    shown: &[&str],
) -> Option<Invalid> {
    let unknown = invalid_prompt("prompt", Some(prompt), variables);
    if unknown.is_some() || prompt.shows(shown) {
        return unknown;
    }
    let says = format!(
        "{}: the template does not name `{}`: it asks the same of all",
        prompt.path.display(),
        shown.join("` or `")
    );
    let hint = format!("write {{{{ {} }}}} where it is to be shown", shown[0]);
    Some(Invalid::new("prompt", says).hint(hint))
}

/// A template that names what it cannot have.
pub fn invalid_prompt(
    key: &str,
    prompt: Option<&PromptFile>,
    variables: &[&str],
) -> Option<Invalid> {
    let error = prompt?.check(variables).err()?;
    Some(Invalid::new(key, error.to_string()))
}

/// Several answers to a question are wanted, and all would be the same.
pub fn invalid_candidates(candidates: u32, sampling: &Sampling) -> Option<Invalid> {
    (candidates > 1 && sampling.temperature == 0.0).then(|| {
        let says = "several `candidates` at temperature 0 are one and the same";
        Invalid::new("candidates", says).hint("add `sampling = { temperature = 0.8 }`")
    })
}

/// What every stage that asks a teacher has.
pub fn invalid_asking(sampling: &Sampling, budget: &Budget) -> Vec<Invalid> {
    let wrong = sampling.check().into_iter();
    let mut found: Vec<Invalid> = wrong
        .map(|(key, says)| Invalid::new(format!("sampling.{key}"), says))
        .collect();
    require(
        &mut found,
        sampling.temperature <= MOST_TEMPERATURE || !sampling.temperature.is_finite(),
        "sampling.temperature",
        format!("`temperature` is at most {MOST_TEMPERATURE}"),
    );
    found.extend(invalid_budget(budget));
    found
}

/// What a teacher may not cost.
pub fn invalid_budget(budget: &Budget) -> Vec<Invalid> {
    let mut found = Vec::new();
    require(
        &mut found,
        (budget.dollars).is_none_or(|dollars| dollars > 0.0 && dollars.is_finite()),
        "budget.dollars",
        "`dollars` must be above 0",
    );
    let says = "`tokens` must be at least 1";
    require(&mut found, budget.tokens != Some(0), "budget.tokens", says);
    found
}

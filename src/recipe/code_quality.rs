//! What the stage `code_quality` takes: who labels, what makes vectors of code, and the forest that learns the labels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use teacher::remote::account::Budget;
use teacher::remote::request::Sampling;
use teacher::synth::educational_value::{LEAST, MOST};
use teacher::synth::prompt::{PromptFile, VARIABLES};

use super::generate::{SchemaFile, invalid_asking, invalid_question};
use super::invalid::{Invalid, require};

/// Keeps the code that teaches something, as a forest sees it that has learned a teacher's scores.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct CodeQuality {
    /// The data that is sifted.
    #[serde(skip_serializing)]
    pub data: String,
    /// The column that is judged. All that a record says when left out.
    pub field: Option<String>,
    /// A model whose hidden states are the vectors.
    #[serde(skip_serializing)]
    pub embedder: String,
    /// Tokens of a record that the embedder reads, from the start.
    #[serde(default = "tokens_of_a_record")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// The model that scores a sample of the records; or else `labels`.
    #[serde(skip_serializing)]
    pub teacher: Option<String>,
    /// A template that asks the teacher for the score of the code, 1 to 5; it needs one.
    pub prompt: Option<PromptFile>,
    /// A file with the JSON schema that answers follow.
    pub schema: Option<SchemaFile>,
    /// How the teacher draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// Records that the teacher scores; twice the `folds` at least.
    #[serde(default = "labelled_records")]
    #[schemars(range(min = 4))]
    pub labelled: usize,
    /// Labels that the data has already; or else `teacher`.
    pub labels: Option<ColumnLabels>,
    /// The least score that counts as high.
    #[serde(default = "middle")]
    pub high_from: f64,
    /// Trees of the forest, 1 to 10000.
    #[serde(default = "trees_of_a_forest")]
    #[schemars(range(min = 1, max = 10000))]
    pub trees: usize,
    /// Parts into which labels are dealt, to measure forests on what they have not seen; 2 to 100.
    #[serde(default = "folds_of_labels")]
    #[schemars(range(min = 2, max = 100))]
    pub folds: usize,
    /// Share of the trees that has to vote for a record, above 0 and at most 1.
    #[serde(default = "half")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub threshold: f64,
    /// What it may cost: a stage that has reached it goes on with a larger one. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Records that may stay without a label, where the server never gave one.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = 0))]
    pub allow_failed: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnLabels {
    /// The column that holds them.
    pub column: String,
    /// The values that count as high, all others as low. Left out, those are true, "high", and scores from
    /// `high_from` on.
    pub high: Option<Vec<Value>>,
}

fn tokens_of_a_record() -> usize {
    512
}

fn labelled_records() -> usize {
    500
}

fn middle() -> f64 {
    3.0
}

fn trees_of_a_forest() -> usize {
    200
}

fn folds_of_labels() -> usize {
    5
}

fn half() -> f64 {
    0.5
}

impl CodeQuality {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = invalid_asking(&self.sampling, &self.budget);
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        let by_teacher = self.teacher.is_some();
        check(
            by_teacher != self.labels.is_some(),
            if by_teacher { "labels" } else { "" },
            "labels come from a `teacher`, or from a column of the data: labels = { column = \"…\" }; name one of the two",
        );
        check(
            !by_teacher || self.prompt.is_some(),
            "teacher",
            "a `teacher` needs `prompt`: a template that asks for the score of the code in `prompt`",
        );
        for (key, given) in [
            ("prompt", self.prompt.is_some()),
            ("schema", self.schema.is_some()),
            ("sampling", self.sampling != Sampling::default()),
            ("labelled", self.labelled != labelled_records()),
            ("budget", self.budget != Budget::default()),
        ] {
            let says = format!("`{key}` is for a `teacher`, and there is none");
            check(by_teacher || !given, key, &says);
        }
        check(
            self.max_tokens >= 1,
            "max_tokens",
            "`max_tokens` must be at least 1",
        );
        check(
            (1..=10_000).contains(&self.trees),
            "trees",
            "`trees` lies between 1 and 10000",
        );
        check(
            (2..=100).contains(&self.folds),
            "folds",
            "`folds` lies between 2 and 100",
        );
        check(
            self.labelled >= 2 * self.folds,
            "labelled",
            "`labelled` is twice the `folds` at least: each fold needs both classes",
        );
        check(
            self.threshold > 0.0 && self.threshold <= 1.0,
            "threshold",
            "`threshold` is above 0 and at most 1",
        );
        check(
            self.high_from.is_finite(),
            "high_from",
            "`high_from` is a number",
        );
        check(
            !by_teacher || (self.high_from > LEAST && self.high_from <= MOST),
            "high_from",
            "`high_from` is above 1 and at most 5: else all records are of one class",
        );
        if let Some(prompt) = &self.prompt {
            let shown = ["prompt", "messages"];
            found.extend(invalid_question(prompt, &VARIABLES, &shown));
        }
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        let values = self.labels.as_ref().and_then(|labels| labels.high.as_ref());
        check(
            values.is_none_or(|values| !values.is_empty()),
            "labels.high",
            "`high` lists no value",
        );
        check(
            values.is_none() || self.high_from == middle(),
            "high_from",
            "`high_from` has no part here: `high` lists what counts as high",
        );
        found
    }
}

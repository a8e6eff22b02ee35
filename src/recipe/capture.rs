//! What the stage `capture` takes.

use datasets::packing::Packing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::shards::answer_targets::tells_the_model;
use teacher::shards::{Encoding, ShardError};
use trainer::config::invalid_chat_template;

use super::data::DataMix;
use super::generate::{Generate, invalid_budget};
use super::invalid::{Invalid, require};

/// Stores what a teacher says of data, for a stage `distill`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Capture {
    /// The model whose probabilities are stored; a remote one, too.
    #[serde(skip_serializing)]
    pub teacher: String,
    /// The data that it is asked about: a name, or several with weights.
    pub data: DataMix,
    /// Where its probabilities are read.
    #[serde(default, skip_serializing_if = "CaptureFrom::is_teacher")]
    pub from: CaptureFrom,
    /// What is kept of each position.
    #[serde(default)]
    pub encoding: Encoding,
    /// Divides the logits before anything is kept, 0.001 to 1000.
    #[serde(default = "one")]
    #[schemars(range(min = 0.001, max = 1000))]
    pub temperature: f64,
    /// Tokens of a row; that of the training.
    #[serde(default = "default_length")]
    #[schemars(range(min = 2))]
    pub sequence_length: usize,
    /// How samples fill rows; that of the training. `stream` cannot be captured for.
    #[serde(default, skip_serializing)]
    #[schemars(extend("default" = Packing::default()))]
    pub packing: Packing,
    /// Jinja text used in place of the model's own chat template.
    pub chat_template: Option<String>,
    /// What a remote teacher may cost. No limit when left out.
    #[serde(default, skip_serializing)]
    pub budget: Budget,
    /// Rows that the teacher computes together.
    #[serde(default = "default_rows")]
    #[schemars(range(min = 1))]
    pub micro_batch: usize,
    /// Targets of a file, 1 to 4194304.
    #[serde(default = "default_targets")]
    #[schemars(range(min = 1, max = 4194304))]
    pub shard_tokens: usize,
}

/// Where targets are read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CaptureFrom {
    /// The teacher is asked about the data.
    #[default]
    Teacher,
    /// What it told with the answers that the data are.
    Answers,
}

impl CaptureFrom {
    fn is_teacher(&self) -> bool {
        *self == Self::Teacher
    }
}

fn one() -> f64 {
    1.0
}

fn default_length() -> usize {
    512
}

fn default_rows() -> usize {
    4
}

fn default_targets() -> usize {
    1 << 16
}

/// Most targets of a shard: their offsets are numbers of 32 bits.
const MOST_TARGETS: usize = 1 << 22;

impl Capture {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = self.data.check();
        if let Err(error) = self.encoding.check() {
            let key = match &error {
                ShardError::Setting { key, .. } => format!("encoding.{key}"),
                _ => "encoding".to_string(),
            };
            found.push(Invalid::new(key, error.to_string()));
        }
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(
            (1e-3..=1e3).contains(&self.temperature),
            "temperature",
            "`temperature` must be between 0.001 and 1000",
        );
        check(
            self.sequence_length >= 2,
            "sequence_length",
            "`sequence_length` must be at least 2: a token and the one that it predicts",
        );
        check(
            self.micro_batch > 0,
            "micro_batch",
            "`micro_batch` must be at least 1 row",
        );
        check(
            (1..=MOST_TARGETS).contains(&self.shard_tokens),
            "shard_tokens",
            "`shard_tokens` must be between 1 and 4194304",
        );
        let is_asked = self.from.is_teacher() || self.budget == Budget::default();
        check(
            is_asked,
            "budget",
            "`budget` has no part here: nobody is asked, the answers are there",
        );
        found.extend(invalid_budget(&self.budget));
        found.extend(invalid_packing(self.packing));
        found.extend(invalid_chat_template(self.chat_template.as_deref()));
        found
    }
}

impl Capture {
    /// What a stage that wrote the data has not stored.
    pub fn check_answers(generate: &Generate) -> Option<Invalid> {
        if generate.logprobs.is_none() {
            let says =
                "the stage `generate` that makes these answers does not store log-probabilities";
            return Some(Invalid::new("data", says).hint("add `logprobs = 20` to it"));
        }
        if generate.schema.is_some() {
            let says = "these answers are held to a schema: their log-probabilities may be those of what it leaves";
            return Some(Invalid::new("data", says).hint("learn from their text with `sft`"));
        }
        (!tells_the_model(&generate.sampling)).then(|| {
            let says = "these answers are drawn at another temperature than 1, or with `top_p`: not every server then tells the log-probabilities of the model as it is";
            Invalid::new("data", says).hint("generate them at `temperature` 0, or 1 with `top_p` 1")
        })
    }

    /// What a teacher behind a server cannot tell, or is missing of it here.
    pub fn check_remote(&self, has_tokenizer: bool) -> Option<Invalid> {
        if !has_tokenizer {
            let says =
                "a remote teacher of `capture` needs a tokenizer here, with the ids of its own";
            let hint = "add `tokenizer = \"NAME\"` to the remote model, with a declared model of the same family";
            return Some(Invalid::new("teacher", says).hint(hint));
        }
        if let Encoding::Sampled(_) = self.encoding {
            let says =
                "a server tells its most probable tokens, and draws need the whole distribution";
            return Some(
                Invalid::new("encoding", says)
                    .hint("take `top_k`, with a `k` that the server allows"),
            );
        }
        (self.temperature != 1.0).then(|| {
            let says = "a server tells probabilities at temperature 1, and those of a list at another one follow only from all logits";
            Invalid::new("temperature", says).hint("leave out `temperature`, or capture from the model itself")
        })
    }
}

impl Capture {
    /// What has no part in a capture from a model on this machine.
    pub fn check_local(&self) -> Option<Invalid> {
        if !self.from.is_teacher() {
            let says = "answers of a model on this machine hold no log-probabilities";
            let hint = "leave out `from`: the model itself tells all of them";
            return Some(Invalid::new("from", says).hint(hint));
        }
        (self.budget != Budget::default()).then(|| {
            Invalid::new(
                "budget",
                "`budget` has no part here: a model on this machine costs nothing",
            )
            .hint("leave it out")
        })
    }
}

pub(super) fn invalid_packing(packing: Packing) -> Option<Invalid> {
    (packing == Packing::Stream).then(|| {
        let message = "`stream` cuts samples elsewhere in every epoch, and so a token has another context than when its targets were captured";
        Invalid::new("packing", message).hint("`pack` and `none` cut each sample by itself")
    })
}

//! What the stage `distill` takes: a student, its teacher, and what of them is compared.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use teacher::remote::account::Budget;
use trainer::config::TrainConfig;
use trainer::loss::sparse::is_defined;
use trainer::loss::{LossConfig, LossConfigError, LossEntries};
use trainer::on_policy::config::OnPolicy;

use super::capture::invalid_packing;
use super::data::DataMix;
use super::generate::invalid_budget;
use super::invalid::{Invalid, require};
use super::stage::Thing;

#[derive(Clone, Debug, Serialize)]
pub struct Distill {
    #[serde(flatten)]
    pub inputs: DistillInputs,
    pub train: TrainConfig,
}

/// Trains a student to say what a teacher says.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct DistillInputs {
    /// The model that learns.
    #[serde(skip_serializing)]
    pub student: String,
    /// Whom it learns from: the name of a model, { shards = "NAME" } with what a stage `capture` stored, or { remote
    /// = "NAME" }.
    #[serde(skip_serializing_if = "TeacherChoice::is_only_named")]
    pub teacher: TeacherChoice,
    /// The data that both read: a name, or several with weights.
    pub data: DataMix,
    /// What is compared; the losses are added up with their weights.
    #[schemars(length(min = 1))]
    pub loss: Vec<LossConfig>,
    /// Let the student write a share of the sequences. Not done when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_policy: Option<OnPolicy>,
}

/// The teacher of a stage: a model, what one said, or one that is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TeacherChoice {
    Model(String),
    /// The name of a stage `capture`, or a directory.
    Shards(String),
    Remote(AskedTeacher),
}

/// A model behind a server, which scores every batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AskedTeacher {
    #[serde(skip_serializing)]
    pub remote: String,
    /// So many of the most probable tokens at each place, and the probability of all others together.
    pub k: u32,
    /// A limit and no part of what is made.
    #[serde(skip_serializing)]
    pub budget: Budget,
}

/// A teacher that is no model of the recipe by its name alone.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "oneOf" = [{ "required": ["shards"] }, { "required": ["remote"] }],
    "dependencies" = { "k": ["remote"], "budget": ["remote"] }
))]
struct TeacherTable {
    /// The name of a stage `capture`, or a directory with the targets that one has left.
    shards: Option<String>,
    /// The name of a remote model, which scores every batch.
    remote: Option<String>,
    /// So many of the most probable tokens at each place are asked for, 1 to 1000. 20 when left out.
    #[schemars(range(min = 1, max = 1000))]
    k: Option<u32>,
    /// What the remote teacher may cost. No limit when left out.
    budget: Option<Budget>,
}

impl JsonSchema for TeacherChoice {
    fn schema_name() -> Cow<'static, str> {
        "TeacherChoice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<TeacherTable>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}

/// Tokens that servers tell without further ado.
const DEFAULT_K: u32 = 20;

impl TeacherChoice {
    /// Whether the digest of what it names says all of it.
    fn is_only_named(&self) -> bool {
        !matches!(self, Self::Remote(_))
    }

    /// The key, the name that stands there, and what it has to be.
    pub(super) fn reference(&self) -> (&'static str, &str, Thing) {
        match self {
            Self::Model(name) => ("teacher", name, Thing::Model),
            Self::Shards(name) => ("teacher.shards", name, Thing::Targets),
            Self::Remote(asked) => ("teacher.remote", &asked.remote, Thing::Remote),
        }
    }
}

impl<'de> Deserialize<'de> for TeacherChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = TeacherChoice;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a model, { shards = \"NAME\" } or { remote = \"NAME\" }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TeacherChoice, E> {
                Ok(TeacherChoice::Model(name.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TeacherChoice, A::Error> {
                let TeacherTable {
                    shards,
                    remote,
                    k,
                    budget,
                } = TeacherTable::deserialize(MapAccessDeserializer::new(map))?;
                match (shards, remote) {
                    (Some(shards), None) if k.is_none() && budget.is_none() => {
                        Ok(TeacherChoice::Shards(shards))
                    }
                    (None, Some(remote)) => Ok(TeacherChoice::Remote(AskedTeacher {
                        remote,
                        k: k.unwrap_or(DEFAULT_K),
                        budget: budget.unwrap_or_default(),
                    })),
                    _ => Err(de::Error::custom(
                        "a teacher is { shards = \"NAME\" }, or { remote = \"NAME\" } with `k` and `budget`",
                    )),
                }
            }
        }
        deserializer.deserialize_any(Choice)
    }
}

impl Distill {
    pub fn check(&self) -> Vec<Invalid> {
        let Self { inputs, train } = self;
        let mut found = inputs.data.check();
        require(
            &mut found,
            !inputs.loss.is_empty(),
            "loss",
            "`loss` lists no loss",
        );
        found.extend(invalid_losses(&inputs.loss));
        match &inputs.teacher {
            TeacherChoice::Model(_) => {}
            TeacherChoice::Shards(_) => {
                let on = "stored targets, which hold a part of the teacher's distribution";
                found.extend(undefined_losses(&inputs.loss, on));
                found.extend(invalid_packing(train.packing));
            }
            TeacherChoice::Remote(asked) => found.extend(asked.check(&inputs.loss)),
        }
        if let Some(on_policy) = &inputs.on_policy {
            let inner = on_policy.check(train).into_iter();
            found.extend(inner.map(|invalid| invalid.under("on_policy")));
            if let TeacherChoice::Shards(_) = inputs.teacher {
                let says = "`on_policy` needs the teacher itself: what the student will write, no stored target was captured for";
                let hint = "name the model as the `teacher`, or leave out `on_policy`";
                found.push(Invalid::new("on_policy", says).hint(hint));
            }
            let across = |loss: &LossConfig| matches!(loss, LossConfig::UniversalLogit(_));
            if inputs.loss.iter().any(across) {
                let says = "what the student writes cannot be scored across tokenizers: `universal_logit` learns from data alone";
                let hint = "leave out `on_policy`, or take a teacher with the student's tokenizer and another loss";
                found.push(Invalid::new("on_policy", says).hint(hint));
            }
        }
        found
    }
}

impl AskedTeacher {
    fn check(&self, losses: &[LossConfig]) -> Vec<Invalid> {
        let on = "what a server tells, a part of its distribution";
        let mut found = undefined_losses(losses, on);
        let says = "`k` must be between 1 and 1000 tokens";
        require(&mut found, (1..=1000).contains(&self.k), "teacher.k", says);
        let budget = invalid_budget(&self.budget).into_iter();
        found.extend(budget.map(|invalid| invalid.under("teacher")));
        for (i, loss) in losses.iter().enumerate() {
            if matches!(loss, LossConfig::ForwardKl(kl) if kl.temperature != 1.0) {
                let says = "a server tells probabilities at temperature 1, and those of a list at another one follow only from all logits";
                let key = format!("loss.{i}.temperature");
                found.push(Invalid::new(key, says).hint("leave out `temperature`"));
            }
        }
        found
    }

    /// What is missing of it here.
    pub(super) fn check_tokenizer(has_tokenizer: bool) -> Option<Invalid> {
        (!has_tokenizer).then(|| {
            let says =
                "a remote teacher of `distill` needs a tokenizer here, with the ids of its own";
            let hint = "add `tokenizer = \"NAME\"` to the remote model, with a declared model of the same family";
            Invalid::new("teacher.remote", says).hint(hint)
        })
    }
}

/// Losses that need more than a list of probable tokens.
fn undefined_losses(losses: &[LossConfig], on: &str) -> Vec<Invalid> {
    let undefined = (losses.iter().enumerate()).filter(|(_, loss)| !is_defined(loss));
    undefined
        .map(|(i, loss)| {
            let message = format!("`{}` is not defined on {on}", loss.name());
            Invalid::new(format!("loss.{i}"), message)
                .hint("`forward_kl` and `cross_entropy` are; others need the teacher itself")
        })
        .collect()
}

fn invalid_losses(losses: &[LossConfig]) -> Vec<Invalid> {
    let invalid = |(i, loss): (usize, &LossConfig)| {
        let error = loss.validate().err()?;
        let key = match &error {
            LossConfigError::OutOfRange { field, .. } => format!("loss.{i}.{field}"),
            _ => format!("loss.{i}"),
        };
        Some(Invalid::new(key, error.to_string()))
    };
    let mut found: Vec<Invalid> = losses.iter().enumerate().filter_map(invalid).collect();
    for (i, loss) in losses.iter().enumerate() {
        let described = |loss: &LossConfig| {
            let layers = loss.layers().map(<[_]>::to_vec);
            (loss.name(), loss.temperature().map(f64::to_bits), layers)
        };
        let is_same = |earlier: &LossConfig| described(earlier) == described(loss);
        if losses[..i].iter().any(is_same) {
            let says = format!("`{}` is listed twice", loss.name());
            found.push(Invalid::new(format!("loss.{i}"), says).hint("add up their weights"));
        }
    }
    let has = |wanted: fn(&LossConfig) -> bool| losses.iter().position(wanted);
    if let (Some(_), Some(other)) = (
        has(|loss| matches!(loss, LossConfig::UniversalLogit(_))),
        has(|loss| {
            !matches!(
                loss,
                LossConfig::UniversalLogit(_) | LossConfig::CrossEntropy(_)
            )
        }),
    ) {
        let says = format!(
            "`{}` compares token by token, and `universal_logit` is for a teacher with other tokens",
            losses[other].name()
        );
        let hint = "only `cross_entropy` can stand beside `universal_logit`";
        found.push(Invalid::new(format!("loss.{other}"), says).hint(hint));
    }
    match LossEntries::new(losses) {
        Err(error) if found.is_empty() && !losses.is_empty() => {
            vec![Invalid::new("loss", error.to_string())]
        }
        _ => found,
    }
}

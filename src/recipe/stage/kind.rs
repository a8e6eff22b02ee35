//! The kinds of stages, and how the table of each is read.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Action, Stage};
use crate::recipe::distill::Distill;
use crate::recipe::document::Node;
use crate::recipe::dpo::Dpo;
use crate::recipe::eval::Eval;
use crate::recipe::export::Export;
use crate::recipe::problem::Problem;
use crate::recipe::read::{KIND, PartSchema, Parts};
use crate::recipe::sft::Sft;

/// Keys that every stage has.
#[derive(Deserialize, JsonSchema)]
struct Head {
    /// What the stage does.
    #[serde(rename = "kind")]
    _kind: String,
    /// The name that later stages know its result by.
    #[serde(rename = "as")]
    name: Option<String>,
}

/// Keys that are easily taken for a stage's own, and the tables that they stand in.
const INNER_KEYS: [(&str, &str); 13] = [
    ("lr", "optimizer"),
    ("betas", "optimizer"),
    ("eps", "optimizer"),
    ("weight_decay", "optimizer"),
    ("warmup_steps", "schedule"),
    ("min_lr_ratio", "schedule"),
    ("rank", "adapter"),
    ("alpha", "adapter"),
    ("targets", "adapter"),
    ("max_tokens", "sampling"),
    ("temperature", "sampling"),
    ("top_p", "sampling"),
    ("dollars", "budget"),
];

impl Stage {
    pub fn read(node: &Node) -> Result<Self, Problem> {
        let mut parts = Parts::new(node)?;
        let head = parts.take::<Head>();
        let action = Action::read(node, &mut parts)?;
        parts.finish(&INNER_KEYS)?;
        Ok(Self {
            name: head?.name,
            action: action?,
        })
    }

    /// The schemas of all that a stage reads which has these keys, whatever else it lacks.
    pub fn schemas(keys: &[(&str, &str)]) -> Vec<PartSchema> {
        let node = Node::of_strings(keys);
        let Ok(mut parts) = Parts::new(&node) else {
            return Vec::new();
        };
        // Only what is asked for counts here.
        let _ = parts.take::<Head>();
        let _ = Action::read(&node, &mut parts);
        parts.schemas()
    }
}

impl Action {
    /// # Errors
    /// The outer for a kind that there is none of, the inner for what is wrong with its keys.
    fn read(node: &Node, parts: &mut Parts) -> Result<Result<Self, Problem>, Problem> {
        let missing = || Problem::new(format!("missing key `{KIND}`")).accepting("", Action::KINDS);
        let tag = node
            .get(KIND)
            .ok_or_else(|| missing().at(node.span.clone()))?;
        let not_a_string = || {
            let problem = Problem::new(format!("`{KIND}` is not a string"));
            problem.accepting("", Action::KINDS).at(tag.span.clone())
        };
        Ok(match tag.string().ok_or_else(not_a_string)? {
            "prune" => parts.take().map(Action::Prune),
            "gqa" => parts.take().map(Action::Gqa),
            "capture" => parts.take().map(Action::Capture),
            "sft" => {
                let (inputs, train) = (parts.take(), parts.take());
                inputs.and_then(|inputs| {
                    Ok(Action::Sft(Sft {
                        inputs,
                        train: train?,
                    }))
                })
            }
            "distill" => {
                let (inputs, train) = (parts.take(), parts.take());
                inputs.and_then(|inputs| {
                    Ok(Action::Distill(Distill {
                        inputs,
                        train: train?,
                    }))
                })
            }
            "dpo" => {
                let (inputs, train) = (parts.take(), parts.take());
                inputs.and_then(|inputs| {
                    Ok(Action::Dpo(Box::new(Dpo {
                        inputs,
                        train: train?,
                    })))
                })
            }
            "quantize" => parts.take().map(Action::Quantize),
            "eval" => Eval::read(parts).map(Action::Eval),
            "export" => Export::read(parts).map(Action::Export),
            "generate" => parts.take().map(Box::new).map(Action::Generate),
            "rate" => parts.take().map(Box::new).map(Action::Rate),
            "judge" => parts.take().map(Box::new).map(Action::Judge),
            "code_quality" => parts.take().map(Box::new).map(Action::CodeQuality),
            "exercises" => parts.take().map(Box::new).map(Action::Exercises),
            "filter" => parts.take().map(Action::Filter),
            "dedup" => parts.take().map(Action::Dedup),
            "decontaminate" => parts.take().map(Action::Decontaminate),
            other => {
                return Err(Problem::new(format!("unknown stage kind `{other}`"))
                    .accepting(other, Action::KINDS)
                    .at(tag.span.clone()));
            }
        })
    }
}

impl Action {
    pub const KINDS: [&str; 17] = [
        "prune",
        "gqa",
        "capture",
        "sft",
        "distill",
        "dpo",
        "quantize",
        "eval",
        "export",
        "generate",
        "rate",
        "judge",
        "code_quality",
        "exercises",
        "filter",
        "dedup",
        "decontaminate",
    ];

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Prune(_) => "prune",
            Self::Gqa(_) => "gqa",
            Self::Capture(_) => "capture",
            Self::Sft(_) => "sft",
            Self::Distill(_) => "distill",
            Self::Dpo(_) => "dpo",
            Self::Quantize(_) => "quantize",
            Self::Eval(_) => "eval",
            Self::Export(_) => "export",
            Self::Generate(_) => "generate",
            Self::Rate(_) => "rate",
            Self::Judge(_) => "judge",
            Self::CodeQuality(_) => "code_quality",
            Self::Exercises(_) => "exercises",
            Self::Filter(_) => "filter",
            Self::Dedup(_) => "dedup",
            Self::Decontaminate(_) => "decontaminate",
        }
    }
}

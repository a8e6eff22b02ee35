//! The stages of a recipe: what each kind takes, names and makes.

use model::surgery::gqa::Pooling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use teacher::remote::account::Budget;
use teacher::shards::Encoding;
use trainer::config::TrainConfig;

use super::capture::{Capture, CaptureFrom};
use super::code_quality::CodeQuality;
use super::data::DataMix;
use super::distill::{Distill, TeacherChoice};
use super::document::Node;
use super::dpo::Dpo;
use super::eval::Eval;
use super::exercises::Exercises;
use super::export::Export;
use super::ffn_width::FfnWidth;
use super::filter::{Decontaminate, Dedup, Filter};
use super::generate::{Generate, Mode};
use super::invalid::{Invalid, require};
use super::judge::Judge;
use super::keep_layers::KeepLayers;
use super::problem::Problem;
use super::quantize::Quantize;
use super::rate::{Keep, Rate};
use super::read::{KIND, PartSchema, Parts};

/// A link of the chain: what it does and the name that later stages know its result by.
#[derive(Clone, Debug)]
pub struct Stage {
    pub name: Option<String>,
    pub action: Action,
}

/// What a stage does. Serialised, it is the part of the stage's digest that its own settings make:
/// names of models and data are left out, since the digests of what they name stand for them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Prune(Prune),
    Gqa(Gqa),
    Capture(Capture),
    Sft(Sft),
    Distill(Distill),
    Dpo(Box<Dpo>),
    Quantize(Quantize),
    Eval(Eval),
    Export(Export),
    Generate(Box<Generate>),
    Rate(Box<Rate>),
    Judge(Box<Judge>),
    CodeQuality(Box<CodeQuality>),
    Exercises(Box<Exercises>),
    Filter(Filter),
    Dedup(Dedup),
    Decontaminate(Decontaminate),
}

/// Takes layers out of a model, or channels out of its feed-forward networks.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Prune {
    /// The model that loses layers or channels.
    #[serde(skip_serializing)]
    pub model: String,
    /// The layers that stay: "every-third" and the like, their numbers from 0, or the most important ones. All when
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_layers: Option<KeepLayers>,
    /// The channels of the feed-forward networks that stay. All when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ffn_width: Option<FfnWidth>,
}

/// Joins the key and value heads of a model in groups (arXiv 2305.13245).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Gqa {
    /// The model whose key and value heads are joined.
    #[serde(skip_serializing)]
    pub model: String,
    /// Key and value heads that stay in each layer; a divisor of those there are. 1 is multi-query attention.
    #[schemars(range(min = 1))]
    pub kv_heads: usize,
    /// What becomes of the heads of a group.
    #[serde(default)]
    pub pooling: Pooling,
}

#[derive(Clone, Debug, Serialize)]
pub struct Sft {
    #[serde(flatten)]
    pub inputs: SftInputs,
    pub train: TrainConfig,
}

/// Trains a model on data: fine-tuning, on answers where the data has some.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct SftInputs {
    /// The model that learns.
    #[serde(skip_serializing)]
    pub model: String,
    /// The data that it learns from: a name, or several with weights.
    pub data: DataMix,
}

/// What a name can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// Weights.
    Model,
    /// A model behind a server.
    Remote,
    /// As something wanted: a model of either kind, that only writes or tells probabilities.
    Writer,
    /// Data that the recipe declares: what it holds shows when it is read. As something wanted: records of any kind.
    Data,
    /// Texts, answers and conversations: what can be learned, measured and rated.
    Samples,
    /// Prompts, each with a chosen and a rejected answer.
    Pairs,
    /// Conversations that nobody has answered yet.
    Instructions,
    /// As something wanted: samples or instructions.
    Questions,
    Targets,
    Scores,
    Files,
}

impl Thing {
    pub fn described(self) -> &'static str {
        match self {
            Self::Model | Self::Writer => "a model",
            Self::Remote => "a remote model",
            Self::Data => "data",
            Self::Samples => "data with texts or answers",
            Self::Pairs => "pairs of a chosen and a rejected answer",
            Self::Instructions => "instructions without answers",
            Self::Questions => "data with texts or prompts",
            Self::Targets => "stored targets",
            Self::Scores => "a table of scores",
            Self::Files => "exported files",
        }
    }
}

/// A name that a stage uses: the key it stands under and what it must stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub key: String,
    pub name: String,
    pub wanted: Thing,
}

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

    /// What the stage makes; for one that only sifts data, where that is not known to be of another kind.
    pub fn makes(&self) -> Thing {
        match self {
            Self::Prune(_) | Self::Gqa(_) | Self::Sft(_) | Self::Distill(_) | Self::Quantize(_) => {
                Thing::Model
            }
            Self::Dpo(_) => Thing::Model,
            Self::Capture(_) => Thing::Targets,
            Self::Eval(_) | Self::Judge(_) => Thing::Scores,
            Self::Export(_) => Thing::Files,
            Self::Generate(stage) if stage.mode != Mode::Answer => Thing::Instructions,
            Self::Rate(stage) if stage.keep == Keep::Pairs => Thing::Pairs,
            Self::Generate(_) | Self::Rate(_) | Self::CodeQuality(_) | Self::Exercises(_) => {
                Thing::Samples
            }
            Self::Filter(_) | Self::Dedup(_) | Self::Decontaminate(_) => Thing::Samples,
        }
    }

    /// The data whose records the stage sifts and leaves as they are.
    pub fn sifts(&self) -> Option<&str> {
        match self {
            Self::Filter(stage) => Some(&stage.data),
            Self::Dedup(stage) => Some(&stage.data),
            Self::Decontaminate(stage) => Some(&stage.data),
            Self::CodeQuality(stage) => Some(&stage.data),
            _ => None,
        }
    }

    /// Whether the recipe's seed has a part in the result.
    pub fn is_random(&self) -> bool {
        match self {
            Self::Gqa(gqa) => gqa.pooling == Pooling::Random,
            Self::Capture(capture) => matches!(capture.encoding, Encoding::Sampled(_)),
            Self::Sft(_) | Self::Distill(_) | Self::Dpo(_) | Self::CodeQuality(_) => true,
            Self::Generate(generate) => generate.sampling.seed.is_none(),
            Self::Rate(rate) => rate.seed.is_none() || rate.sampling.seed.is_none(),
            Self::Judge(judge) => judge.sampling.seed.is_none(),
            Self::Exercises(exercises) => exercises.sampling.seed.is_none(),
            Self::Quantize(quantize) => quantize.calibration.is_some(),
            Self::Eval(eval) => eval.measure.is_random(),
            Self::Prune(_) | Self::Export(_) => false,
            Self::Filter(_) | Self::Dedup(_) | Self::Decontaminate(_) => false,
        }
    }

    /// The teacher that the stage asks, and what that may cost.
    pub fn asks(&self) -> Option<(&str, &Budget)> {
        match self {
            Self::Generate(stage) => Some((&stage.teacher, &stage.budget)),
            Self::Rate(stage) => Some((&stage.teacher, &stage.budget)),
            Self::Judge(stage) => Some((&stage.teacher, &stage.budget)),
            Self::Capture(stage) if stage.from == CaptureFrom::Answers => None,
            Self::Capture(stage) => Some((&stage.teacher, &stage.budget)),
            Self::Distill(stage) => match &stage.inputs.teacher {
                TeacherChoice::Remote(remote) => Some((&remote.remote, &remote.budget)),
                _ => None,
            },
            Self::Exercises(stage) => Some((&stage.teacher, &stage.budget)),
            Self::CodeQuality(stage) => Some((stage.teacher.as_deref()?, &stage.budget)),
            _ => None,
        }
    }

    pub fn training(&self) -> Option<&TrainConfig> {
        match self {
            Self::Sft(stage) => Some(&stage.train),
            Self::Distill(stage) => Some(&stage.train),
            Self::Dpo(stage) => Some(&stage.train),
            _ => None,
        }
    }

    /// The models and data that the stage uses, in a fixed order.
    pub fn references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        let mut uses = |key: &str, name: &str, wanted| {
            found.push(Reference {
                key: key.to_string(),
                name: name.to_string(),
                wanted,
            });
        };
        match self {
            Self::Prune(prune) => {
                uses("model", &prune.model, Thing::Model);
                if let Some(data) = prune.keep_layers.as_ref().and_then(KeepLayers::data) {
                    uses("keep_layers.data", data, Thing::Samples);
                }
                if let Some(narrower) = &prune.ffn_width {
                    uses("ffn_width.data", &narrower.data, Thing::Samples);
                }
            }
            Self::Gqa(gqa) => uses("model", &gqa.model, Thing::Model),
            Self::Capture(capture) => {
                uses("teacher", &capture.teacher, Thing::Writer);
                (capture.data.names()).for_each(|(key, name)| uses(&key, name, Thing::Samples));
            }
            Self::Sft(Sft { inputs, .. }) => {
                uses("model", &inputs.model, Thing::Model);
                (inputs.data.names()).for_each(|(key, name)| uses(&key, name, Thing::Samples));
            }
            Self::Distill(Distill { inputs, .. }) => {
                uses("student", &inputs.student, Thing::Model);
                let (key, name, wanted) = inputs.teacher.reference();
                uses(key, name, wanted);
                (inputs.data.names()).for_each(|(key, name)| uses(&key, name, Thing::Samples));
                let on_policy = inputs.on_policy.as_ref();
                if let Some(prompts) = on_policy.and_then(|on| on.prompts.as_ref()) {
                    uses("on_policy.prompts", prompts, Thing::Questions);
                }
            }
            Self::Dpo(dpo) => {
                uses("model", &dpo.inputs.model, Thing::Model);
                (dpo.inputs.data.names()).for_each(|(key, name)| uses(&key, name, Thing::Pairs));
                if let Some(reference) = &dpo.inputs.reference {
                    uses("reference", reference, Thing::Model);
                }
            }
            Self::Quantize(quantize) => {
                uses("model", &quantize.model, Thing::Model);
                if let Some(calibration) = &quantize.calibration {
                    uses("calibration.data", &calibration.data, Thing::Samples);
                }
                uses("heldout", &quantize.heldout, Thing::Samples);
            }
            Self::Eval(eval) => {
                (eval.uses().into_iter()).for_each(|(key, name, wanted)| uses(&key, name, wanted));
            }
            Self::Export(Export { inputs, .. }) => {
                uses("model", &inputs.model, Thing::Model);
                let verify = inputs.verify.as_ref();
                if let Some(data) = verify.and_then(|verify| verify.data.as_deref()) {
                    uses("verify.data", data, Thing::Samples);
                }
            }
            Self::Generate(generate) => {
                uses("teacher", &generate.teacher, Thing::Writer);
                uses("prompts", &generate.prompts, Thing::Questions);
            }
            Self::Rate(rate) => {
                uses("teacher", &rate.teacher, Thing::Writer);
                for (i, answers) in rate.answers.iter().enumerate() {
                    uses(&format!("answers.{i}"), answers, Thing::Samples);
                }
            }
            Self::Judge(judge) => {
                uses("teacher", &judge.teacher, Thing::Writer);
                uses("a", &judge.a, Thing::Samples);
                uses("b", &judge.b, Thing::Samples);
            }
            Self::Exercises(exercises) => {
                uses("teacher", &exercises.teacher, Thing::Writer);
                uses("topics", &exercises.topics, Thing::Samples);
            }
            Self::CodeQuality(quality) => {
                uses("data", &quality.data, Thing::Data);
                uses("embedder", &quality.embedder, Thing::Model);
                if let Some(teacher) = &quality.teacher {
                    uses("teacher", teacher, Thing::Writer);
                }
            }
            Self::Filter(filter) => uses("data", &filter.data, Thing::Data),
            Self::Dedup(dedup) => uses("data", &dedup.data, Thing::Data),
            Self::Decontaminate(decontaminate) => {
                uses("data", &decontaminate.data, Thing::Data);
                (decontaminate.sets()).for_each(|(key, name)| uses(&key, name, Thing::Data));
            }
        }
        if let Some(heldout) = self.training().and_then(|train| train.heldout.as_deref()) {
            let wanted = match self {
                Self::Dpo(_) => Thing::Pairs,
                _ => Thing::Samples,
            };
            uses("heldout", heldout, wanted);
        }
        found
    }

    /// Values that read well and make no sense.
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = self.training().map_or_else(Vec::new, TrainConfig::check);
        match self {
            Self::Prune(prune) => {
                let layers = prune.keep_layers.iter().flat_map(KeepLayers::check);
                found.extend(layers.map(|invalid| invalid.under("keep_layers")));
                let channels = prune.ffn_width.iter().flat_map(FfnWidth::check);
                found.extend(channels.map(|invalid| invalid.under("ffn_width")));
                require(
                    &mut found,
                    prune.keep_layers.is_some() || prune.ffn_width.is_some(),
                    "",
                    "`prune` needs `keep_layers` or `ffn_width`: what is to go is not said",
                );
            }
            Self::Gqa(gqa) => require(
                &mut found,
                gqa.kv_heads > 0,
                "kv_heads",
                "`kv_heads` must be at least 1; 1 is multi-query attention",
            ),
            Self::Capture(capture) => found.extend(capture.check()),
            Self::Sft(sft) => found.extend(sft.inputs.data.check()),
            Self::Distill(distill) => found.extend(distill.check()),
            Self::Dpo(dpo) => found.extend(dpo.check()),
            Self::Eval(eval) => found.extend(eval.check()),
            Self::Quantize(quantize) => found.extend(quantize.check()),
            Self::Export(export) => found.extend(export.check()),
            Self::Generate(generate) => found.extend(generate.check()),
            Self::Rate(rate) => found.extend(rate.check()),
            Self::Judge(judge) => found.extend(judge.check()),
            Self::Exercises(exercises) => found.extend(exercises.check()),
            Self::CodeQuality(quality) => found.extend(quality.check()),
            Self::Filter(filter) => found.extend(filter.check()),
            Self::Dedup(dedup) => found.extend(dedup.check()),
            Self::Decontaminate(decontaminate) => found.extend(decontaminate.check()),
        }
        found
    }
}

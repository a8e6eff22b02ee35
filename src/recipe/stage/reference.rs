//! What stages use and make, by its name.

use super::Action;
use crate::recipe::distill::Distill;
use crate::recipe::export::Export;
use crate::recipe::generate::Mode;
use crate::recipe::keep_layers::KeepLayers;
use crate::recipe::rate::Keep;
use crate::recipe::sft::Sft;

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

impl Action {
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
}

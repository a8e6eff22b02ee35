//! The stages of a recipe: what each does, and what follows from its settings.

mod kind;
mod reference;

use model::surgery::gqa::Pooling;
use serde::Serialize;
use teacher::remote::account::Budget;
use teacher::shards::Encoding;
use trainer::config::TrainConfig;

use super::capture::{Capture, CaptureFrom};
use super::code_quality::CodeQuality;
use super::distill::{Distill, TeacherChoice};
use super::dpo::Dpo;
use super::eval::Eval;
use super::exercises::Exercises;
use super::export::Export;
use super::filter::{Decontaminate, Dedup, Filter};
use super::generate::Generate;
use super::gqa::Gqa;
use super::invalid::Invalid;
use super::judge::Judge;
use super::prune::Prune;
use super::quantize::Quantize;
use super::rate::Rate;
use super::sft::Sft;

pub use reference::{Reference, Thing};

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

impl Action {
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

    /// Values that read well and make no sense.
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = self.training().map_or_else(Vec::new, TrainConfig::check);
        match self {
            Self::Prune(prune) => found.extend(prune.check()),
            Self::Gqa(gqa) => found.extend(gqa.check()),
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

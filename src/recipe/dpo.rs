//! What the stage `dpo` takes: a model, pairs of answers, and what it is held to.

use datasets::packing::Packing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::config::TrainConfig;
use trainer::loss::preference::PreferenceLoss;

use super::data::DataMix;
use super::invalid::Invalid;

#[derive(Clone, Debug, Serialize)]
pub struct Dpo {
    #[serde(flatten)]
    pub inputs: DpoInputs,
    pub train: TrainConfig,
}

/// Trains a model on pairs of answers, to prefer the chosen ones (DPO, arXiv 2305.18290).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct DpoInputs {
    /// The model that learns.
    #[serde(skip_serializing)]
    pub model: String,
    /// Pairs of a chosen and a rejected answer: a name, or several with weights.
    pub data: DataMix,
    /// The model that it is held to. Itself, as it is before training, when left out.
    #[serde(skip_serializing)]
    pub reference: Option<String>,
    /// What is made of the log-probabilities of both answers.
    #[serde(default)]
    pub loss: PreferenceLoss,
}

impl Dpo {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = self.inputs.data.check();
        let loss = self.inputs.loss.check().into_iter();
        found.extend(loss.map(|invalid| invalid.under("loss")));
        if self.inputs.loss.reference_free() && self.inputs.reference.is_some() {
            let says = "a loss with `reference_free` asks no `reference`";
            found.push(Invalid::new("reference", says).hint("keep one of them"));
        }
        if self.train.packing == Packing::Stream {
            let says =
                "`packing = \"stream\"` cuts anywhere, and both answers of a pair stand in one row";
            found.push(Invalid::new("packing", says).hint("`pack` or `none`"));
        }
        found
    }
}

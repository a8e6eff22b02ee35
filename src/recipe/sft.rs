//! What the stage `sft` takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::config::TrainConfig;

use super::data::DataMix;

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

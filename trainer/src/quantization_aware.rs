//! Which coarser grid of weights a recipe trains for, and from which step on.

use model::fake_quantization::QuantizationTarget;
use model::quant::block_type::GgmlType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::invalid::{Invalid, require};

/// Straight-through fake quantisation (arXiv 1308.3432) in the blocks of GGUF, or in torchao's 8da4w.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum QuantizationAware {
    /// GGUF's blocks of 4 bits with a scale.
    Q4_0(BlockGrid),
    /// GGUF's blocks of 5 bits with a scale.
    Q5_0(BlockGrid),
    /// GGUF's blocks of 8 bits with a scale.
    Q8_0(BlockGrid),
    /// torchao's 8da4w: inputs in 8 bits by token, weights in 4 bits by group.
    #[serde(rename = "8da4w")]
    Int8ActivationsInt4Weights(GroupGrid),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BlockGrid {
    /// The head's blocks, which are the embedding's in a tied model.
    pub embedding: HeadGrid,
    /// Share of the steps that pass before weights are rounded, at least 0 and below 1.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub start: f64,
}

/// What a GGUF file of these types holds the head in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadGrid {
    /// GGUF's blocks of 8 bits.
    #[default]
    Q8_0,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupGrid {
    /// Weights of a row that share a scale.
    #[schemars(range(min = 1))]
    pub group_size: usize,
    /// Share of the steps that pass before weights are rounded, at least 0 and below 1.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub start: f64,
}

impl Default for GroupGrid {
    fn default() -> Self {
        Self {
            group_size: 32,
            start: 0.0,
        }
    }
}

impl QuantizationAware {
    pub fn target(&self) -> QuantizationTarget {
        match self {
            Self::Q4_0(_) => QuantizationTarget::Gguf(GgmlType::Q4_0),
            Self::Q5_0(_) => QuantizationTarget::Gguf(GgmlType::Q5_0),
            Self::Q8_0(_) => QuantizationTarget::Gguf(GgmlType::Q8_0),
            Self::Int8ActivationsInt4Weights(GroupGrid { group_size, .. }) => {
                let group_size = *group_size;
                QuantizationTarget::Int8ActivationsInt4Weights { group_size }
            }
        }
    }

    /// What stands beside the result where that has codes of its own; GGUF's blocks follow from the values.
    pub fn described(&self) -> Option<Value> {
        match self {
            Self::Q4_0(_) | Self::Q5_0(_) | Self::Q8_0(_) => None,
            Self::Int8ActivationsInt4Weights(grid) => {
                Some(json!({ "kind": "8da4w", "group_size": grid.group_size }))
            }
        }
    }

    /// The number of the first step, from 0, that computes with rounded weights; of `total` at least the last does.
    pub fn first_step(&self, total: u64) -> u64 {
        let first = (self.start() * total as f64).round() as u64;
        first.min(total.saturating_sub(1))
    }

    fn start(&self) -> f64 {
        match self {
            Self::Q4_0(grid) | Self::Q5_0(grid) | Self::Q8_0(grid) => grid.start,
            Self::Int8ActivationsInt4Weights(grid) => grid.start,
        }
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(
            (0.0..1.0).contains(&self.start()),
            "start",
            "`start`, a share of the steps, must be at least 0 and below 1",
        );
        if let Self::Int8ActivationsInt4Weights(grid) = self {
            check(
                grid.group_size > 0,
                "group_size",
                "`group_size` must be at least 1",
            );
        }
        found
    }
}

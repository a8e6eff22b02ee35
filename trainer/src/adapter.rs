//! Which adapter a recipe asks for.

use model::linear::lora::{LoraConfig, matches_module};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Adapter {
    /// Low-rank matrices beside the linear layers (LoRA, arXiv 2106.09685).
    Lora(LoraConfig),
}

/// The linear layers of a block.
const MODULES: [&str; 7] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.0.self_attn.v_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.gate_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.0.mlp.down_proj",
];

impl Adapter {
    pub fn check(&self) -> Vec<Invalid> {
        let Self::Lora(LoraConfig {
            rank,
            alpha,
            dropout,
            targets,
            ..
        }) = self;
        let mut found = Vec::new();
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(
            (1..=4096).contains(rank),
            "rank",
            "`rank` must lie between 1 and 4096",
        );
        check(
            (1e-6..=1e6).contains(alpha),
            "alpha",
            "`alpha` must lie between 0.000001 and 1000000",
        );
        check(
            (0.0..1.0).contains(dropout),
            "dropout",
            "`dropout` must be at least 0 and below 1",
        );
        check(
            !targets.is_empty(),
            "targets",
            "`targets` names nothing; left out, it is every linear layer of the blocks",
        );
        for (i, pattern) in targets.iter().enumerate() {
            // Which layers there are, the model says.
            let is_known = MODULES.iter().any(|name| matches_module(pattern, name));
            if !is_known && !pattern.contains("layers.") {
                let says = format!("`{pattern}` matches no linear layer of a block");
                let names = MODULES.map(|name| name.rsplit_once('.').map_or(name, |(_, end)| end));
                let hint = format!("there are {}", names.join(", "));
                found.push(Invalid::new(format!("targets.{i}"), says).hint(hint));
            }
        }
        found
    }
}

//! Which optimizer a recipe asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adamw::AdamWConfig;
use crate::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101).
    Adamw(AdamWConfig),
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Adamw(AdamWConfig::default())
    }
}

impl Optimizer {
    pub fn check(&self) -> Vec<Invalid> {
        let Self::Adamw(AdamWConfig {
            lr,
            betas,
            eps,
            weight_decay,
        }) = self;
        let mut found = Vec::new();
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(*lr > 0.0 && lr.is_finite(), "lr", "`lr` must be above 0");
        check(
            (1e-30..1.0).contains(eps),
            "eps",
            "`eps` must be at least 1e-30 (f32 holds nothing much smaller) and below 1",
        );
        check(
            *weight_decay >= 0.0 && weight_decay.is_finite(),
            "weight_decay",
            "`weight_decay` must be 0 or more",
        );
        for (i, beta) in betas.iter().enumerate() {
            check(
                (0.0..1.0).contains(beta),
                &format!("betas.{i}"),
                "a beta must be at least 0 and below 1",
            );
        }
        found
    }
}

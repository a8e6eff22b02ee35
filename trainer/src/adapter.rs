//! Which adapter a recipe asks for.

use model::linear::lora::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Adapter {
    Lora(LoraConfig),
}

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
        found
    }
}

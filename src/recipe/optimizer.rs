//! The optimiser and the course of its learning rate.

use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Optimizer {
    Adamw {
        #[serde(default = "default_lr")]
        lr: f64,
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        #[serde(default = "default_eps")]
        eps: f64,
        /// Not applied to norms and biases.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn default_lr() -> f64 {
    3e-4
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}

fn default_eps() -> f64 {
    1e-8
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Adamw {
            lr: default_lr(),
            betas: default_betas(),
            eps: default_eps(),
            weight_decay: 0.0,
        }
    }
}

/// The learning rate over the steps: up from zero over `warmup_steps`, then down to
/// `min_lr_ratio` of its peak at the last step.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Schedule {
    Cosine {
        #[serde(default)]
        warmup_steps: u64,
        #[serde(default = "default_min_lr_ratio")]
        min_lr_ratio: f64,
    },
    Linear {
        #[serde(default)]
        warmup_steps: u64,
        #[serde(default)]
        min_lr_ratio: f64,
    },
    Constant {
        #[serde(default)]
        warmup_steps: u64,
    },
}

fn default_min_lr_ratio() -> f64 {
    0.1
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Cosine {
            warmup_steps: 0,
            min_lr_ratio: default_min_lr_ratio(),
        }
    }
}

impl Schedule {
    pub fn warmup_steps(&self) -> u64 {
        match *self {
            Self::Cosine { warmup_steps, .. }
            | Self::Linear { warmup_steps, .. }
            | Self::Constant { warmup_steps } => warmup_steps,
        }
    }
}

impl Optimizer {
    pub fn check(&self) -> Vec<Invalid> {
        let Self::Adamw {
            lr,
            betas,
            eps,
            weight_decay,
        } = self;
        let mut found = Vec::new();
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(*lr > 0.0 && lr.is_finite(), "lr", "`lr` must be above 0");
        check(*eps > 0.0, "eps", "`eps` must be above 0");
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

//! The learning rate of each step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Up over `warmup_steps`, then down to `min_lr_ratio` of the peak, which the step after the last one
/// would reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Schedule {
    /// Down along half a cosine.
    Cosine {
        /// Steps over which the learning rate rises to its largest value.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left of the learning rate at the end, as a share of the largest.
        #[serde(default = "default_min_lr_ratio")]
        #[schemars(range(min = 0, max = 1))]
        min_lr_ratio: f64,
    },
    /// Down along a line.
    Linear {
        /// Steps over which the learning rate rises to its largest value.
        #[serde(default)]
        warmup_steps: u64,
        /// What is left of the learning rate at the end, as a share of the largest.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        min_lr_ratio: f64,
    },
    /// It stays.
    Constant {
        /// Steps over which the learning rate rises to its largest value.
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

    /// Share of the peak learning rate at `step`, counted from 0, of `total` steps.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return (step + 1) as f64 / (warmup + 1) as f64;
        }
        let rest = total.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / rest).min(1.0);
        let (shape, floor) = match *self {
            Self::Cosine { min_lr_ratio, .. } => (
                0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                min_lr_ratio,
            ),
            Self::Linear { min_lr_ratio, .. } => (1.0 - done, min_lr_ratio),
            Self::Constant { .. } => (1.0, 0.0),
        };
        floor + (1.0 - floor) * shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_rises_then_falls_to_its_floor() {
        let schedule = Schedule::Cosine {
            warmup_steps: 1,
            min_lr_ratio: 0.0,
        };
        let factors: Vec<f64> = (0..4).map(|step| schedule.factor(step, 4)).collect();
        for (got, expected) in factors.iter().zip([0.5, 1.0, 0.75, 0.25]) {
            assert!((got - expected).abs() < 1e-12, "{factors:?}");
        }
        let floored = Schedule::default();
        assert_eq!(floored.factor(0, 10), 1.0);
        assert!((floored.factor(10, 10) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn linear_and_constant() {
        let linear = Schedule::Linear {
            warmup_steps: 0,
            min_lr_ratio: 0.5,
        };
        assert_eq!(linear.factor(5, 10), 0.75);
        assert_eq!(Schedule::Constant { warmup_steps: 3 }.factor(0, 10), 0.25);
        assert_eq!(Schedule::Constant { warmup_steps: 3 }.factor(9, 10), 1.0);
    }
}

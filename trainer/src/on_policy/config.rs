//! What a recipe says of a student that writes what it learns from.

use model::generate::sampling::SamplingConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use datasets::packing::Packing;

use crate::config::TrainConfig;
use crate::invalid::{Invalid, require};

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnPolicy {
    /// Share of the sequences that the student writes, λ; with `adaptive` the first one.
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
    /// Most tokens that the student writes; fewer where the row is full.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// How the student draws; apart from the temperature of the losses.
    pub sampling: StudentSampling,
    /// Data with questions, answered or not. Those of the stage's own data when left out.
    #[serde(skip_serializing)]
    pub prompts: Option<String>,
    /// Keep what the student wrote and learn it again. Not done when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Let `share` rise when the held-out loss does. Not done when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
}

/// How the student draws; apart from the temperature of the losses.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StudentSampling {
    /// Temperature of the draw; 0 takes the most probable token.
    #[schemars(range(min = 0))]
    pub temperature: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// The smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: f32,
}

/// What the student wrote is kept and learned again.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Sequences that are kept; the oldest go first.
    #[schemars(range(min = 1))]
    pub capacity: usize,
    /// Steps after which one is too old.
    #[schemars(range(min = 1))]
    pub max_age: u64,
    /// How much of the student's share is written anew; the rest comes from what is kept.
    pub fresh: Fresh,
}

/// How much of the student's share is written anew, over the run; the rest comes from the buffer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fresh {
    /// From all to nothing.
    #[default]
    Decreasing,
    /// From nothing to all.
    Increasing,
    /// Half.
    Constant,
}

/// The share rises when the held-out loss does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// What is added to the share.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub increment: f64,
    /// Nats a token above the lowest held-out loss since the last rise.
    #[schemars(range(min = 0))]
    pub tolerance: f64,
}

impl Default for OnPolicy {
    fn default() -> Self {
        Self {
            share: 0.5,
            max_new_tokens: 128,
            sampling: StudentSampling::default(),
            prompts: None,
            replay: None,
            adaptive: None,
        }
    }
}

impl Default for StudentSampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        }
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            capacity: 256,
            max_age: 100,
            fresh: Fresh::default(),
        }
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            increment: 0.1,
            tolerance: 0.1,
        }
    }
}

impl StudentSampling {
    pub fn config(&self) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            ..SamplingConfig::default()
        }
    }
}

impl Fresh {
    /// The share that is written anew at `step`, from 0, of `total`.
    pub fn at(self, step: u64, total: u64) -> f64 {
        let done = step as f64 / total.max(1) as f64;
        match self {
            Self::Decreasing => 1.0 - done,
            Self::Increasing => done,
            Self::Constant => 0.5,
        }
    }
}

impl OnPolicy {
    pub fn check(&self, train: &TrainConfig) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(
            (0.0..=1.0).contains(&self.share),
            "share",
            "`share` must lie between 0 (data alone) and 1 (the student's own sequences alone)",
        );
        check(
            self.max_new_tokens >= 1,
            "max_new_tokens",
            "`max_new_tokens` must be at least 1",
        );
        check(
            self.max_new_tokens < train.sequence_length,
            "max_new_tokens",
            &format!(
                "`max_new_tokens` ({}) must be less than `sequence_length` ({}): a prompt and its answer share a row",
                self.max_new_tokens, train.sequence_length
            ),
        );
        if let Err(says) = self.sampling.config().validate() {
            check(false, "sampling", &says);
        }
        if let Some(replay) = &self.replay {
            check(
                replay.capacity >= 1,
                "replay.capacity",
                "`capacity` must be at least 1 sequence",
            );
            check(
                replay.max_age >= 1,
                "replay.max_age",
                "`max_age` must be at least 1 step",
            );
        }
        if let Some(adaptive) = &self.adaptive {
            check(
                adaptive.increment > 0.0 && adaptive.increment <= 1.0,
                "adaptive.increment",
                "`increment` must be above 0 and at most 1",
            );
            check(
                adaptive.tolerance >= 0.0 && adaptive.tolerance.is_finite(),
                "adaptive.tolerance",
                "`tolerance` must be 0 nats a token or more",
            );
            check(
                train.heldout.is_some() && train.evaluate_every.is_some(),
                "adaptive",
                "`adaptive` needs `heldout` and `evaluate_every`: the share rises with the held-out loss",
            );
        }
        if train.packing == Packing::Stream && self.prompts.is_none() {
            let says =
                "`stream` cuts samples anywhere, so a row may begin in the middle of a prompt";
            let hint = "take `pack` or `none`, or name questions with `on_policy.prompts`";
            found.push(Invalid::new("", says).hint(hint));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_values_are_found_by_their_keys() {
        let train = TrainConfig::default();
        let base = OnPolicy::default;
        assert!(base().check(&train).is_empty());
        let adaptive = Adaptive {
            increment: 0.0,
            tolerance: f64::NAN,
        };
        for (config, keys) in [
            (
                OnPolicy {
                    share: 1.5,
                    ..base()
                },
                vec!["share"],
            ),
            (
                OnPolicy {
                    share: f64::NAN,
                    ..base()
                },
                vec!["share"],
            ),
            (
                OnPolicy {
                    max_new_tokens: 0,
                    ..base()
                },
                vec!["max_new_tokens"],
            ),
            (
                OnPolicy {
                    max_new_tokens: 512,
                    ..base()
                },
                vec!["max_new_tokens"],
            ),
            (
                OnPolicy {
                    sampling: StudentSampling {
                        top_p: 0.0,
                        ..Default::default()
                    },
                    ..base()
                },
                vec!["sampling"],
            ),
            (
                OnPolicy {
                    replay: Some(Replay {
                        capacity: 0,
                        max_age: 0,
                        ..Default::default()
                    }),
                    ..base()
                },
                vec!["replay.capacity", "replay.max_age"],
            ),
            (
                OnPolicy {
                    adaptive: Some(adaptive),
                    ..base()
                },
                vec!["adaptive.increment", "adaptive.tolerance", "adaptive"],
            ),
        ] {
            let found: Vec<String> = (config.check(&train).into_iter()).map(|i| i.key).collect();
            assert_eq!(found, keys, "{config:?}");
        }
    }

    #[test]
    fn what_is_written_anew_follows_the_run() {
        let at = |fresh: Fresh| [0, 5, 10].map(|step| fresh.at(step, 10));
        assert_eq!(at(Fresh::Decreasing), [1.0, 0.5, 0.0]);
        assert_eq!(at(Fresh::Increasing), [0.0, 0.5, 1.0]);
        assert_eq!(at(Fresh::Constant), [0.5; 3]);
    }
}

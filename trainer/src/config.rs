//! The settings of a training stage, shared by `sft` and `distill`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use datasets::chat_template::ChatTemplate;
use datasets::packing::Packing;

use crate::adapter::Adapter;
use crate::invalid::{Invalid, require};
use crate::optim::config::Optimizer;
use crate::optim::schedule::Schedule;
use crate::quantization_aware::QuantizationAware;

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimiser steps; or else `epochs`.
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Passes over the data; or else `steps`.
    #[schemars(range(max = 100000), extend("exclusiveMinimum" = 0))]
    pub epochs: Option<f64>,
    /// Tokens of one optimiser step, a multiple of `sequence_length`: its rows are computed `micro_batch` at a time.
    #[schemars(range(min = 2, max = 67108864))]
    pub tokens_per_step: usize,
    /// Tokens of a row.
    #[schemars(range(min = 2, max = 67108864))]
    pub sequence_length: usize,
    /// Rows computed together; divides those of a step. All rows of a step, four at most, when left out.
    #[schemars(range(min = 1))]
    pub micro_batch: Option<usize>,
    /// Train an adapter beside the frozen model, not the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// Train for a coarser grid of weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization_aware: Option<QuantizationAware>,
    /// How weights follow from gradients.
    pub optimizer: Optimizer,
    /// The learning rate of each step, as a share of the largest.
    pub schedule: Schedule,
    /// Largest norm of the gradient of all weights; `inf` turns clipping off.
    #[schemars(schema_with = "norm_schema")]
    pub clip_norm: f64,
    /// Keep only the inputs of blocks and run each block again in the backward pass: less memory, more time.
    pub checkpoint_blocks: bool,
    /// How samples fill rows; each attends only to itself.
    pub packing: Packing,
    /// Jinja text used in place of the model's own chat template.
    pub chat_template: Option<String>,
    /// The data whose loss is measured every `evaluate_every` steps.
    #[serde(skip_serializing)]
    pub heldout: Option<String>,
    /// Steps between two measurements on `heldout`. Before and after the training alone when left out.
    #[schemars(range(min = 1))]
    pub evaluate_every: Option<u64>,
    /// Steps between two checkpoints. It does not change the result.
    #[serde(skip_serializing)]
    #[schemars(range(min = 1))]
    #[schemars(extend("default" = TrainConfig::default().checkpoint_every))]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept, the last ones.
    #[serde(skip_serializing)]
    #[schemars(range(min = 1))]
    #[schemars(extend("default" = TrainConfig::default().keep_checkpoints))]
    pub keep_checkpoints: usize,
}

/// Tokens of the largest step: far above what anybody trains with, far below what memory holds.
const MOST_TOKENS: usize = 1 << 26;

/// More passes than anybody makes are a typing error.
const MOST_EPOCHS: f64 = 1e5;

/// A number above 0. What reads TOML for a schema takes `inf` for null, since JSON has no such number.
fn norm_schema(_: &mut SchemaGenerator) -> Schema {
    let others = ["string", "boolean", "array", "object"];
    json_schema!({ "not": { "type": others }, "exclusiveMinimum": 0 })
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            tokens_per_step: 8192,
            sequence_length: 512,
            micro_batch: None,
            adapter: None,
            quantization_aware: None,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            clip_norm: 1.0,
            checkpoint_blocks: false,
            packing: Packing::default(),
            chat_template: None,
            heldout: None,
            evaluate_every: None,
            checkpoint_every: 100,
            keep_checkpoints: 2,
        }
    }
}

impl TrainConfig {
    /// Rows of `sequence_length` tokens in one optimiser step.
    pub fn rows_per_step(&self) -> usize {
        self.tokens_per_step / self.sequence_length.max(1)
    }

    /// Optimiser steps of the whole run.
    pub fn total_steps(&self, batches_per_epoch: u64) -> u64 {
        match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => (epochs * batches_per_epoch as f64).ceil().max(1.0) as u64,
            (None, None) => 0,
        }
    }

    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        match (self.steps, self.epochs) {
            (None, None) => {
                found.push(Invalid::new("steps", "how long to train is not said").hint(
                    "add `steps = …` (optimiser steps) or `epochs = …` (passes over the data)",
                ))
            }
            (Some(_), Some(_)) => found.push(
                Invalid::new("epochs", "`steps` and `epochs` are both given").hint("keep one"),
            ),
            _ => {}
        }
        let mut check = |holds, key: &str, message: &str| require(&mut found, holds, key, message);
        check(self.steps != Some(0), "steps", "`steps` must be at least 1");
        check(
            self.epochs
                .is_none_or(|epochs| epochs > 0.0 && epochs <= MOST_EPOCHS),
            "epochs",
            &format!("`epochs` must be above 0 and at most {MOST_EPOCHS}"),
        );
        check(
            self.sequence_length >= 2,
            "sequence_length",
            "`sequence_length` must be at least 2: a token and the one that it predicts",
        );
        let whole_rows = self.rows_per_step() >= 1
            && self
                .tokens_per_step
                .is_multiple_of(self.sequence_length.max(1));
        check(
            whole_rows,
            "tokens_per_step",
            &format!(
                "`tokens_per_step` ({}) must be a multiple of `sequence_length` ({})",
                self.tokens_per_step, self.sequence_length
            ),
        );
        check(
            self.tokens_per_step <= MOST_TOKENS,
            "tokens_per_step",
            &format!("`tokens_per_step` must be at most {MOST_TOKENS}"),
        );
        check(
            self.micro_batch != Some(0),
            "micro_batch",
            "`micro_batch` must be at least 1 row",
        );
        if let Some(rows) = self.micro_batch.filter(|&rows| rows > 0 && whole_rows) {
            check(
                self.rows_per_step().is_multiple_of(rows),
                "micro_batch",
                &format!(
                    "`micro_batch` ({rows}) must divide the {} rows of a step \
                     (`tokens_per_step` / `sequence_length`)",
                    self.rows_per_step()
                ),
            );
        }
        check(
            self.clip_norm > 0.0,
            "clip_norm",
            "`clip_norm` must be above 0 (`inf` turns clipping off)",
        );
        check(
            self.checkpoint_every > 0,
            "checkpoint_every",
            "`checkpoint_every` must be at least 1 step",
        );
        check(
            self.keep_checkpoints > 0,
            "keep_checkpoints",
            "`keep_checkpoints` must be at least 1: a run resumes from its last",
        );
        check(
            self.evaluate_every != Some(0),
            "evaluate_every",
            "`evaluate_every` must be at least 1 step",
        );
        check(
            self.evaluate_every.is_none() || self.heldout.is_some(),
            "evaluate_every",
            "`evaluate_every` needs `heldout`, the data to evaluate on",
        );
        let warmup = self.schedule.warmup_steps();
        check(
            self.steps.is_none_or(|steps| warmup <= steps),
            "schedule.warmup_steps",
            &format!("`warmup_steps` ({warmup}) is more than `steps`"),
        );
        if let Schedule::Cosine { min_lr_ratio, .. } | Schedule::Linear { min_lr_ratio, .. } =
            self.schedule
        {
            check(
                (0.0..=1.0).contains(&min_lr_ratio),
                "schedule.min_lr_ratio",
                "`min_lr_ratio` must lie between 0 and 1",
            );
        }
        found.extend(invalid_chat_template(self.chat_template.as_deref()));
        if let Some(adapter) = &self.adapter {
            let inner = adapter.check().into_iter();
            found.extend(inner.map(|invalid| invalid.under("adapter")));
        }
        if let Some(aware) = &self.quantization_aware {
            let inner = aware.check().into_iter();
            found.extend(inner.map(|invalid| invalid.under("quantization_aware")));
            if self.adapter.is_some() {
                found.push(
                    Invalid::new(
                        "quantization_aware",
                        "`quantization_aware` trains the matrices, which stay frozen beneath an `adapter`",
                    )
                    .hint("keep one; an adapter on a base of 4 bits is `adapter = { kind = \"lora\", base = \"nf4\" }`"),
                );
            }
        }
        found.extend(
            self.optimizer
                .check()
                .into_iter()
                .map(|i| i.under("optimizer")),
        );
        found
    }
}

/// A text that is no template of a conversation.
pub fn invalid_chat_template(text: Option<&str>) -> Option<Invalid> {
    let says = match ChatTemplate::new(text?, Vec::new()) {
        Ok(template) if template.shows_messages() => return None,
        Ok(_) => {
            "this chat template does not name `messages`: it shows nothing of a conversation".into()
        }
        Err(error) => error.to_string(),
    };
    let hint = "the key takes the text of a template, not a path";
    Some(Invalid::new("chat_template", says).hint(hint))
}

#[cfg(test)]
mod tests {
    use model::linear::lora::LoraConfig;

    use super::*;
    use crate::optim::adamw::AdamWConfig;
    use crate::quantization_aware::BlockGrid;

    fn keys(config: TrainConfig) -> Vec<String> {
        config
            .check()
            .into_iter()
            .map(|invalid| invalid.key)
            .collect()
    }

    #[test]
    fn the_defaults_need_only_a_length() {
        let default = TrainConfig::default;
        assert_eq!(keys(default()), ["steps"]);
        assert!(
            keys(TrainConfig {
                steps: Some(1),
                ..default()
            })
            .is_empty()
        );
        assert!(
            keys(TrainConfig {
                epochs: Some(0.5),
                ..default()
            })
            .is_empty()
        );
    }

    #[test]
    fn senseless_values_are_found() {
        let base = || TrainConfig {
            steps: Some(10),
            ..TrainConfig::default()
        };
        let adamw = |lr, betas| {
            Optimizer::Adamw(AdamWConfig {
                lr,
                betas,
                ..AdamWConfig::default()
            })
        };
        for (config, key) in [
            (
                TrainConfig {
                    steps: Some(0),
                    ..base()
                },
                "steps",
            ),
            (
                TrainConfig {
                    epochs: Some(1.0),
                    ..base()
                },
                "epochs",
            ),
            (
                TrainConfig {
                    tokens_per_step: 100,
                    ..base()
                },
                "tokens_per_step",
            ),
            (
                TrainConfig {
                    tokens_per_step: 0,
                    ..base()
                },
                "tokens_per_step",
            ),
            (
                TrainConfig {
                    sequence_length: 0,
                    ..base()
                },
                "sequence_length",
            ),
            (
                TrainConfig {
                    micro_batch: Some(3),
                    ..base()
                },
                "micro_batch",
            ),
            (
                TrainConfig {
                    clip_norm: f64::NAN,
                    ..base()
                },
                "clip_norm",
            ),
            (
                TrainConfig {
                    evaluate_every: Some(5),
                    ..base()
                },
                "evaluate_every",
            ),
            (
                TrainConfig {
                    schedule: Schedule::Constant { warmup_steps: 11 },
                    ..base()
                },
                "schedule.warmup_steps",
            ),
            (
                TrainConfig {
                    chat_template: Some("{% for".into()),
                    ..base()
                },
                "chat_template",
            ),
            (
                TrainConfig {
                    chat_template: Some("recipes/chat.jinja".into()),
                    ..base()
                },
                "chat_template",
            ),
            (
                TrainConfig {
                    adapter: Some(Adapter::Lora(LoraConfig {
                        targets: vec!["*_proj".into(), "query".into()],
                        ..LoraConfig::default()
                    })),
                    ..base()
                },
                "adapter.targets.1",
            ),
            (
                TrainConfig {
                    optimizer: adamw(f64::INFINITY, [0.9, 0.99]),
                    ..base()
                },
                "optimizer.lr",
            ),
            (
                TrainConfig {
                    optimizer: adamw(-1.0, [0.9, 0.99]),
                    ..base()
                },
                "optimizer.lr",
            ),
            (
                TrainConfig {
                    optimizer: adamw(1.0, [0.9, 1.0]),
                    ..base()
                },
                "optimizer.betas.1",
            ),
            (
                TrainConfig {
                    quantization_aware: Some(QuantizationAware::Q4_0(BlockGrid {
                        start: 1.0,
                        ..BlockGrid::default()
                    })),
                    ..base()
                },
                "quantization_aware.start",
            ),
            (
                TrainConfig {
                    adapter: Some(Adapter::Lora(LoraConfig::default())),
                    quantization_aware: Some(QuantizationAware::Q8_0(BlockGrid::default())),
                    ..base()
                },
                "quantization_aware",
            ),
        ] {
            assert!(
                keys(config.clone()).contains(&key.to_string()),
                "{key}: {config:?}"
            );
        }
    }
}

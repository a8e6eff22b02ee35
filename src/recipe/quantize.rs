//! What the stage `quantize` takes: a method with its settings, calibration text, and text to measure the loss on.

use model::quant::awq::{AwqConfig, Scaling};
use model::quant::block_type::GgmlType;
use model::quant::gptq::GptqConfig;
use model::quant::integer::IntegerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::invalid::{Invalid, require};

/// Rounds the weights of a model, and measures what that costs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Quantize {
    /// The model that is quantised.
    #[serde(skip_serializing)]
    pub model: String,
    /// How linear layers become codes.
    pub method: QuantizeMethod,
    /// Text that the inputs of the layers are observed on; for the methods that need it.
    pub calibration: Option<Calibration>,
    /// Text for the loss before and after, and for the divergence from the original.
    #[serde(skip_serializing)]
    pub heldout: String,
    /// Tokens of `heldout` that are scored, from the start.
    #[serde(default = "default_heldout_tokens")]
    #[schemars(range(min = 1))]
    pub heldout_tokens: usize,
    /// Tokens that the model sees at once. As an evaluation's when left out.
    #[schemars(range(min = 2))]
    pub window: Option<usize>,
}

fn default_heldout_tokens() -> usize {
    8192
}

/// How linear layers become codes. Embedding, head, norms and biases stay as they are, but for `ggml`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantizeMethod {
    /// Eight bits, a scale a row: the largest magnitude has the code 127.
    AbsmaxInt8(Int8),
    /// Eight bits from the lowest value of a row to its highest.
    ZeroPointInt8(Int8),
    /// LLM.int8 (arXiv 2208.07339): eight bits, but for the columns of outliers.
    LlmInt8(LlmInt8),
    /// QLoRA's four bits (arXiv 2305.14314), in blocks of 64.
    Nf4,
    /// Integers of 2 to 8 bits, each weight rounded by itself.
    RoundToNearest(IntegerConfig),
    /// GPTQ (arXiv 2210.17323): each column takes over the error of those before it.
    Gptq(GptqConfig),
    /// AWQ (arXiv 2306.00978): columns with large inputs are scaled up before rounding.
    Awq(AwqConfig),
    /// A GGUF file's blocks, embedding and head among them.
    Ggml(Blocks),
}

/// What a GGUF file of this type holds, embedding and head among it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// The type of the blocks.
    #[serde(rename = "type")]
    pub kind: GgmlType,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Int8 {
    /// Whether inputs of linear layers are rounded to int8, too.
    pub activations: Activations,
}

/// Whether inputs of linear layers are rounded to int8, too.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// They are not.
    #[default]
    None,
    /// Each token by its own range.
    Dynamic,
    /// All by the range that calibration has seen.
    Static,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LlmInt8 {
    /// Columns with a magnitude above it stay in 16 bits.
    #[schemars(range(min = 0.001, max = 1000000))]
    pub threshold: f64,
}

impl Default for LlmInt8 {
    fn default() -> Self {
        Self { threshold: 6.0 }
    }
}

/// Windows of text that the inputs of the layers are observed on, drawn with the recipe's seed.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The data that windows are drawn from.
    #[serde(skip_serializing)]
    pub data: String,
    /// Windows.
    #[serde(default = "default_sequences")]
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// Tokens of a window.
    #[serde(default = "default_sequence_length")]
    #[schemars(range(min = 1))]
    pub sequence_length: usize,
}

fn default_sequences() -> usize {
    128
}

fn default_sequence_length() -> usize {
    512
}

impl QuantizeMethod {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AbsmaxInt8(_) => "absmax_int8",
            Self::ZeroPointInt8(_) => "zero_point_int8",
            Self::LlmInt8(_) => "llm_int8",
            Self::Nf4 => "nf4",
            Self::RoundToNearest(_) => "round_to_nearest",
            Self::Gptq(_) => "gptq",
            Self::Awq(_) => "awq",
            Self::Ggml(_) => "ggml",
        }
    }

    /// The method with its settings, as a table of the recipe has them.
    pub fn described(&self) -> serde_json::Result<Value> {
        let mut table = json!({ "kind": self.kind() });
        if let Value::Object(variant) = serde_json::to_value(self)?
            && let Some(settings) = variant.into_values().next()
            && let Value::Object(settings) = settings
        {
            for (key, value) in settings {
                table[key] = value;
            }
        }
        Ok(table)
    }

    /// The method with what sets it apart, in words for a table.
    pub fn title(&self) -> String {
        let mut title = self.kind().to_string();
        match self {
            Self::AbsmaxInt8(int8) | Self::ZeroPointInt8(int8) => match int8.activations {
                Activations::None => {}
                Activations::Dynamic => title += ", dynamic",
                Activations::Static => title += ", static",
            },
            Self::LlmInt8(LlmInt8 { threshold }) => title += &format!(", above {threshold}"),
            Self::Ggml(blocks) => title += &format!(", {}", blocks.kind.name()),
            _ => {}
        }
        if let Some(integer) = self.integer() {
            title += &format!(", {} bits", integer.bits);
            if let Some(columns) = integer.group_size {
                title += &format!(", groups of {columns}");
            }
        }
        if let Self::Awq(AwqConfig {
            scaling: Scaling::Salient { share, scale },
            ..
        }) = self
        {
            title += &format!(", {}% × {scale}", share * 100.0);
        }
        title
    }

    pub fn needs_calibration(&self) -> bool {
        match self {
            Self::AbsmaxInt8(int8) | Self::ZeroPointInt8(int8) => {
                int8.activations == Activations::Static
            }
            Self::LlmInt8(_) | Self::Gptq(_) | Self::Awq(_) => true,
            Self::Nf4 | Self::RoundToNearest(_) | Self::Ggml(_) => false,
        }
    }

    /// Why GPTQ's layout cannot hold what it leaves.
    pub fn beyond_gptq(&self) -> Option<String> {
        match self {
            Self::Ggml(_) | Self::Nf4 | Self::LlmInt8(_) => Some(format!(
                "`gptq` holds integers alone, and `{}` leaves others",
                self.kind()
            )),
            Self::RoundToNearest(_) | Self::Gptq(_) | Self::Awq(_) => {
                let bits = self.integer()?.bits;
                let says =
                    format!("`gptq` holds integers of 2, 3, 4 or 8 bits, and these have {bits}");
                (!matches!(bits, 2 | 3 | 4 | 8)).then_some(says)
            }
            Self::AbsmaxInt8(_) | Self::ZeroPointInt8(_) => None,
        }
    }

    fn integer(&self) -> Option<IntegerConfig> {
        match self {
            Self::RoundToNearest(config) => Some(*config),
            Self::Gptq(config) => Some(config.integer()),
            Self::Awq(config) => Some(config.integer()),
            _ => None,
        }
    }
}

impl Quantize {
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut check = |holds, key: &str, says: &str| require(&mut found, holds, key, says);
        if let Some(integer) = self.method.integer() {
            let says = "`bits` must lie between 2 and 8";
            check((2..=8).contains(&integer.bits), "method.bits", says);
            let says = "`group_size` must be at least 1 column; without it each row has one scale";
            check(integer.group_size != Some(0), "method.group_size", says);
        }
        match &self.method {
            QuantizeMethod::LlmInt8(LlmInt8 { threshold }) => check(
                (1e-3..=1e6).contains(threshold),
                "method.threshold",
                "`threshold` must lie between 0.001 and 1000000; 6 is usual",
            ),
            QuantizeMethod::Gptq(config) => check(
                config.damping > 0.0 && config.damping <= 1e6,
                "method.damping",
                "`damping` must lie above 0 and be at most 1000000; 0.01 is usual",
            ),
            QuantizeMethod::Awq(config) => match config.scaling {
                Scaling::Search { grid } => check(
                    (1..=1000).contains(&grid),
                    "method.scaling.grid",
                    "`grid` must lie between 1 and 1000 steps",
                ),
                Scaling::Salient { share, scale } => {
                    let says = "`share` must lie between 0 and 1, such as 0.01";
                    check(share > 0.0 && share < 1.0, "method.scaling.share", says);
                    let says = "`scale` must lie between 0.001 and 1000";
                    let is_scale = (1e-3..=1e3).contains(&scale);
                    check(is_scale, "method.scaling.scale", says);
                }
            },
            _ => {}
        }
        let kind = self.method.kind();
        match &self.calibration {
            None => check(
                !self.method.needs_calibration(),
                "method",
                &format!(
                    "`{kind}` needs `calibration`, such as {{ data = \"NAME\", sequences = 128, sequence_length = 512 }}"
                ),
            ),
            Some(calibration) => {
                check(
                    self.method.needs_calibration(),
                    "calibration",
                    &format!("`{kind}` takes no `calibration` with these settings"),
                );
                check(
                    calibration.sequences >= 1,
                    "calibration.sequences",
                    "`sequences` must be at least 1",
                );
                check(
                    calibration.sequence_length >= 1,
                    "calibration.sequence_length",
                    "`sequence_length` must be at least 1 token",
                );
            }
        }
        check(
            self.heldout_tokens >= 1,
            "heldout_tokens",
            "`heldout_tokens` must be at least 1",
        );
        check(
            self.window.is_none_or(|window| window >= 2),
            "window",
            "`window` must be at least 2 tokens",
        );
        found
    }
}

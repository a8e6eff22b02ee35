//! The decoder's configuration from Hugging Face's `config.json`.
//!
//! Keys that are absent have the defaults of the configuration class in transformers, which differ
//! by architecture and from `null`. Both spellings of RoPE are read: `rope_theta` beside
//! `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config_check::{self, MAX_LAYERS};
use super::error::WeightsError;
use super::gptq_layout::GptqFormat;
use super::json_fields::JsonFields;
use crate::config::{Architecture, DecoderConfig, RopeConfig, RopeScaling};

/// A larger configuration file is none.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads a JSON file of moderate size.
pub(crate) fn read_json(path: &Path, max_bytes: u64) -> Result<Value, WeightsError> {
    let length = fs::metadata(path).map_err(WeightsError::io(path))?.len();
    if length > max_bytes {
        let problem =
            format!("is {length} bytes long, more than the {max_bytes} that such a file may have");
        return Err(WeightsError::malformed(path, problem));
    }
    let bytes = fs::read(path).map_err(WeightsError::io(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| WeightsError::malformed(path, format!("is not valid JSON: {error}")))
}

/// `config.json` of a directory.
pub(super) fn config_json(directory: &Path) -> Result<(PathBuf, Value), WeightsError> {
    let path = directory.join("config.json");
    let json = read_json(&path, MAX_CONFIG_BYTES)?;
    Ok((path, json))
}

/// Reads `config.json` of a directory and the special tokens of `generation_config.json`, which
/// take precedence where that file exists.
///
/// # Errors
/// As [`from_hf_json`], and [`WeightsError::Io`].
pub fn read_hf_config(directory: &Path) -> Result<DecoderConfig, WeightsError> {
    let (path, json) = config_json(directory)?;
    let mut config = from_hf_json(&path, &json)?;
    let path = directory.join("generation_config.json");
    if path.exists() {
        let json = read_json(&path, MAX_CONFIG_BYTES)?;
        let fields = JsonFields::new(&path, &json)?;
        if let Some(ids) = fields.ids("eos_token_id")? {
            config.eos_token_ids = ids;
        }
        config.bos_token_id = fields.id("bos_token_id")?.or(config.bos_token_id);
        config.pad_token_id = fields.id("pad_token_id")?.or(config.pad_token_id);
        config_check::check(&path, &config)?;
    }
    Ok(config)
}

/// What a class of transformers assumes for absent keys.
struct Defaults {
    key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Defaults {
    fn of(architecture: Architecture) -> Self {
        let (bos, eos) = match architecture {
            Architecture::Llama | Architecture::Mistral => (Some(1), vec![2]),
            Architecture::Qwen2 | Architecture::Qwen3 => (None, Vec::new()),
        };
        let (key_value_heads, head_dim, max_position_embeddings) = match architecture {
            Architecture::Llama => (None, None, 2048),
            Architecture::Mistral => (Some(8), None, 131_072),
            Architecture::Qwen2 => (Some(32), None, 32_768),
            Architecture::Qwen3 => (Some(32), Some(128), 32_768),
        };
        Self {
            key_value_heads,
            head_dim,
            max_position_embeddings,
            bos,
            eos,
        }
    }
}

/// Reads the content of a `config.json`; `path` is for messages.
///
/// # Errors
/// [`WeightsError::Unsupported`] with the accepted names for other architectures, activations and
/// RoPE scalings, and for quantised checkpoints other than GPTQ's; [`WeightsError::Key`] for keys that are missing or
/// cannot be.
pub fn from_hf_json(path: &Path, json: &Value) -> Result<DecoderConfig, WeightsError> {
    let fields = JsonFields::new(path, json)?;
    let architecture = match fields.text("model_type")? {
        Some("llama") => Architecture::Llama,
        Some("mistral") => Architecture::Mistral,
        Some("qwen2") => Architecture::Qwen2,
        Some("qwen3") => Architecture::Qwen3,
        found => {
            let found = found.unwrap_or("absent");
            let accepted = "llama, mistral, qwen2, qwen3 (key `model_type`)";
            return Err(WeightsError::unsupported(
                path,
                "architecture",
                found,
                accepted,
            ));
        }
    };
    let activation = fields.text("hidden_act")?.unwrap_or("silu");
    // Two names of one function.
    if !matches!(activation, "silu" | "swish") {
        return Err(WeightsError::unsupported(
            path,
            "activation (key `hidden_act`)",
            activation,
            "silu",
        ));
    }
    GptqFormat::read(&fields)?;

    let defaults = Defaults::of(architecture);
    let hidden_size = fields.required_length("hidden_size")?;
    let num_attention_heads = fields.required_length("num_attention_heads")?;
    let num_key_value_heads = match fields.length("num_key_value_heads")? {
        Some(heads) => heads,
        None if fields.has("num_key_value_heads") => num_attention_heads,
        None => defaults.key_value_heads.unwrap_or(num_attention_heads),
    };
    let default_head_dim = defaults.head_dim.filter(|_| !fields.has("head_dim"));
    let head_dim = match fields.length("head_dim")?.or(default_head_dim) {
        Some(length) => length,
        // No heads at all are refused below.
        None if num_attention_heads == 0 => 0,
        None if hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            let expected = format!(
                "a multiple of num_attention_heads, {num_attention_heads}, as head_dim is absent"
            );
            return Err(fields.wrong("hidden_size", &expected));
        }
    };
    let layers = fields.required_length("num_hidden_layers")?;
    let attention_bias = fields.boolean("attention_bias")?.unwrap_or(false);
    let attention_bias =
        attention_bias && matches!(architecture, Architecture::Llama | Architecture::Qwen3);
    let ids = |key, default: Vec<u32>| match fields.ids(key)? {
        Some(ids) => Ok::<_, WeightsError>(ids),
        None if fields.has(key) => Ok(Vec::new()),
        None => Ok(default),
    };
    let config = DecoderConfig {
        architecture,
        vocab_size: fields.required_length("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required_length("intermediate_size")?,
        num_hidden_layers: layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: fields.float("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(&fields)?,
        max_position_embeddings: fields
            .length("max_position_embeddings")?
            .unwrap_or(defaults.max_position_embeddings),
        tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: attention_bias || architecture == Architecture::Qwen2,
        output_bias: attention_bias,
        mlp_bias: architecture == Architecture::Llama
            && fields.boolean("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Architecture::Qwen3,
        sliding_windows: sliding_windows(&fields, architecture, layers.min(MAX_LAYERS))?,
        bos_token_id: ids("bos_token_id", defaults.bos.into_iter().collect())?
            .first()
            .copied(),
        eos_token_ids: ids("eos_token_id", defaults.eos)?,
        pad_token_id: fields.id("pad_token_id")?,
    };
    config_check::check(path, &config)?;
    Ok(config)
}

/// `rope_scaling` wins over `rope_parameters`, and a θ within over one beside, as in transformers.
fn rope(fields: &JsonFields) -> Result<RopeConfig, WeightsError> {
    let beside = fields.float("rope_theta")?;
    let inner = match fields.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters")?,
    };
    let mut theta = beside.unwrap_or(10_000.0);
    let mut scaling = RopeScaling::None;
    let mut rotary_factor = fields.float("partial_rotary_factor")?;
    if let Some(inner) = inner {
        theta = inner.float("rope_theta")?.unwrap_or(theta);
        rotary_factor = inner.float("partial_rotary_factor")?.or(rotary_factor);
        let kind = match inner.text("rope_type")? {
            Some(kind) => kind,
            None => inner.text("type")?.unwrap_or("default"),
        };
        scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: inner.required_float("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: inner.required_float("factor")?,
                low_freq_factor: inner.required_float("low_freq_factor")?,
                high_freq_factor: inner.required_float("high_freq_factor")?,
                original_max_position_embeddings: inner
                    .required_length("original_max_position_embeddings")?,
            },
            other => {
                let accepted = "default, linear, llama3";
                return Err(WeightsError::unsupported(
                    fields.path,
                    "RoPE type",
                    other,
                    accepted,
                ));
            }
        };
        if inner.has("full_attention") || inner.has("sliding_attention") {
            let accepted = "one for all layers";
            return Err(WeightsError::unsupported(
                fields.path,
                "RoPE",
                "for each layer type",
                accepted,
            ));
        }
    }
    if let Some(factor) = rotary_factor.filter(|factor| *factor != 1.0) {
        let found = factor.to_string();
        return Err(WeightsError::key(
            fields.path,
            "partial_rotary_factor",
            found,
            "1 or absent",
        ));
    }
    Ok(RopeConfig { theta, scaling })
}

/// Mistral has one window for all layers; Qwen has it where `layer_types` says, or from layer
/// `max_window_layers` on, and only if `use_sliding_window`.
fn sliding_windows(
    fields: &JsonFields,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, WeightsError> {
    let window = match fields.length("sliding_window")? {
        Some(0) => return Err(fields.wrong("sliding_window", "a positive integer or null")),
        Some(window) => Some(window),
        None if fields.has("sliding_window") => None,
        None => Some(4096),
    };
    let is_used = match architecture {
        Architecture::Llama => false,
        Architecture::Mistral => return Ok(vec![window; layers]),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            fields.boolean("use_sliding_window")?.unwrap_or(false)
        }
    };
    let window = window.filter(|_| is_used);
    let types = match architecture {
        Architecture::Llama => None,
        _ => fields.texts("layer_types")?,
    };
    let Some(types) = types else {
        let first = fields.length("max_window_layers")?.unwrap_or(28);
        return Ok((0..layers)
            .map(|layer| window.filter(|_| layer >= first))
            .collect());
    };
    if types.len() != layers {
        return Err(fields.wrong("layer_types", &format!("one for each of {layers} layers")));
    }
    types
        .into_iter()
        .map(|kind| match kind {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            "sliding_attention" => {
                let expected = "true, because layer_types has sliding_attention";
                Err(fields.wrong("use_sliding_window", expected))
            }
            other => {
                let accepted = "full_attention, sliding_attention";
                Err(WeightsError::unsupported(
                    fields.path,
                    "layer type",
                    other,
                    accepted,
                ))
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "hf_config_tests.rs"]
mod tests;

//! `config.json` and `generation_config.json` as transformers 4 and 5 load them.

use std::path::Path;

use serde_json::{Value, json};

use super::dtype::WeightDtype;
use super::error::WeightsError;
use crate::config::{Architecture, DecoderConfig, RopeScaling};

/// The content of `config.json`; `path` is for messages.
///
/// RoPE is written in both spellings, `rope_theta` with `rope_scaling` and `rope_parameters`, the
/// type of the values as `torch_dtype` and `dtype`.
///
/// # Errors
/// [`WeightsError::Unwritable`] if the architecture's class in transformers has no key for a part
/// of `config`.
pub fn to_hf_json(
    path: &Path,
    config: &DecoderConfig,
    dtype: WeightDtype,
) -> Result<Value, WeightsError> {
    let (model_type, class) = match config.architecture {
        Architecture::Llama => ("llama", "LlamaForCausalLM"),
        Architecture::Mistral => ("mistral", "MistralForCausalLM"),
        Architecture::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Architecture::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
    };
    check_expressible(path, config)?;
    let scaling = match config.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    let mut parameters = match &scaling {
        Value::Null => json!({ "rope_type": "default" }),
        scaling => scaling.clone(),
    };
    parameters["rope_theta"] = json!(config.rope.theta);

    let mut json = json!({
        "architectures": [class],
        "model_type": model_type,
        "torch_dtype": dtype.torch_name(),
        "dtype": dtype.torch_name(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": scaling,
        "rope_parameters": parameters,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_several(&config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
    });
    let window = config.sliding_windows.iter().flatten().next();
    match config.architecture {
        Architecture::Llama => {
            json["attention_bias"] = json!(config.qkv_bias);
            json["mlp_bias"] = json!(config.mlp_bias);
        }
        Architecture::Mistral => json["sliding_window"] = json!(window),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            json["use_sliding_window"] = json!(window.is_some());
            json["sliding_window"] = json!(window);
            let types = config.sliding_windows.iter().map(|window| match window {
                Some(_) => "sliding_attention",
                None => "full_attention",
            });
            json["layer_types"] = types.collect();
            // What transformers before `layer_types` goes by: exact when the windows begin at one
            // layer.
            let first = config.sliding_windows.iter().position(Option::is_some);
            json["max_window_layers"] = json!(first.unwrap_or(config.num_hidden_layers));
            if config.architecture == Architecture::Qwen3 {
                json["attention_bias"] = json!(config.qkv_bias);
            }
        }
    }
    Ok(json)
}

/// The content of `generation_config.json`: the special tokens.
pub fn to_generation_json(config: &DecoderConfig) -> Value {
    let mut json = json!({});
    if let Some(id) = config.bos_token_id {
        json["bos_token_id"] = json!(id);
    }
    if !config.eos_token_ids.is_empty() {
        json["eos_token_id"] = one_or_several(&config.eos_token_ids);
    }
    if let Some(id) = config.pad_token_id {
        json["pad_token_id"] = json!(id);
    }
    json
}

fn one_or_several(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

/// Whether a model of this configuration can be written at all; `path` is for messages.
///
/// # Errors
/// As [`to_hf_json`].
pub fn check_expressible(path: &Path, config: &DecoderConfig) -> Result<(), WeightsError> {
    let Some(part) = inexpressible(config) else {
        return Ok(());
    };
    let family = format!("{:?}", config.architecture).to_lowercase();
    let problem = format!("a model of type {family} has no key for {part}");
    Err(WeightsError::unwritable(path, problem))
}

/// A part of the configuration that the architecture's class in transformers cannot say.
fn inexpressible(config: &DecoderConfig) -> Option<&'static str> {
    let windows = &config.sliding_windows;
    if windows.len() != config.num_hidden_layers {
        return Some("windows of another number of layers than the model has");
    }
    let first = windows.first().copied().flatten();
    let any = windows.iter().flatten().next();
    let (qkv, output) = (config.qkv_bias, config.output_bias);
    let windows_fit = match config.architecture {
        Architecture::Llama => any.is_none(),
        Architecture::Mistral => windows.iter().all(|window| *window == first),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            windows.iter().flatten().all(|window| Some(window) == any)
        }
    };
    let biases_fit = match config.architecture {
        Architecture::Llama | Architecture::Qwen3 => qkv == output,
        Architecture::Mistral => !qkv && !output,
        Architecture::Qwen2 => qkv && !output,
    };
    if !windows_fit {
        Some("these sliding windows")
    } else if !biases_fit {
        Some("these biases of attention")
    } else if config.mlp_bias && config.architecture != Architecture::Llama {
        Some("biases of the MLP")
    } else if config.qk_norm != (config.architecture == Architecture::Qwen3) {
        Some("norms of q and k other than its own")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::hf_config::from_hf_json;
    use crate::weights::test_files::tiny_config;

    const ARCHITECTURES: [Architecture; 4] = [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ];

    #[test]
    fn what_is_written_is_read_back() {
        let path = Path::new("config.json");
        for architecture in ARCHITECTURES {
            let mut config = tiny_config(architecture);
            config.eos_token_ids = vec![2, 3];
            config.rope.scaling = RopeScaling::Linear { factor: 2.0 };
            match architecture {
                Architecture::Llama => {
                    (config.qkv_bias, config.output_bias, config.mlp_bias) = (true, true, true);
                    config.rope.scaling = RopeScaling::Llama3 {
                        factor: 8.0,
                        low_freq_factor: 1.0,
                        high_freq_factor: 4.0,
                        original_max_position_embeddings: 32,
                    };
                }
                Architecture::Mistral => config.sliding_windows = vec![Some(8); 2],
                Architecture::Qwen2 | Architecture::Qwen3 => {
                    config.sliding_windows = vec![Some(8), None];
                }
            }
            let mut json = to_hf_json(path, &config, WeightDtype::Bf16).unwrap();
            assert_eq!(from_hf_json(path, &json).unwrap(), config);
            // Each spelling of RoPE alone says the same.
            json["rope_scaling"] = Value::Null;
            assert_eq!(from_hf_json(path, &json).unwrap(), config);
        }
    }

    #[test]
    fn what_transformers_cannot_say_is_refused() {
        let problem = |config: &DecoderConfig| {
            let error = to_hf_json(Path::new("config.json"), config, WeightDtype::F32).unwrap_err();
            error.to_string()
        };
        let mut config = tiny_config(Architecture::Llama);
        config.sliding_windows = vec![Some(8), None];
        assert!(problem(&config).contains("sliding windows"));
        config.architecture = Architecture::Mistral;
        assert!(problem(&config).contains("sliding windows"));
        let mut config = tiny_config(Architecture::Llama);
        config.qkv_bias = true;
        assert!(problem(&config).contains("biases of attention"));
        let mut config = tiny_config(Architecture::Qwen2);
        config.qk_norm = true;
        assert!(problem(&config).contains("norms of q and k"));
    }
}

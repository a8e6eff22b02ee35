//! Configurations as transformers 4 and 5 write them.

use serde_json::json;

use super::*;
use crate::weights::dtype::WeightDtype;
use crate::weights::hf_config_writer::to_hf_json;

/// A small configuration with the keys that every model has, `extra` put over it.
fn read(model_type: &str, extra: Value) -> Result<DecoderConfig, WeightsError> {
    let mut json = json!({
        "model_type": model_type, "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 7
    });
    for (key, value) in extra.as_object().unwrap() {
        json[key] = value.clone();
    }
    from_hf_json(Path::new("config.json"), &json)
}

fn message(model_type: &str, extra: Value) -> String {
    read(model_type, extra).unwrap_err().to_string()
}

#[test]
fn transformers_4_and_5_say_the_same() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192
    });
    let four = read(
        "llama",
        json!({ "rope_theta": 5e5, "rope_scaling": llama3 }),
    )
    .unwrap();
    let mut parameters = llama3;
    parameters["rope_theta"] = json!(5e5);
    let five = read("llama", json!({ "rope_parameters": parameters })).unwrap();
    assert_eq!(four, five);
    assert_eq!(four.rope.theta, 5e5);
    assert!(matches!(
        four.rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, .. }
    ));

    let linear = read(
        "llama",
        json!({ "rope_scaling": { "type": "linear", "factor": 2 } }),
    )
    .unwrap();
    assert_eq!(
        linear.rope,
        RopeConfig {
            theta: 1e4,
            scaling: RopeScaling::Linear { factor: 2.0 }
        }
    );
}

#[test]
fn absent_and_null_keys_have_the_defaults_of_their_class() {
    let llama = read("llama", json!({ "head_dim": null })).unwrap();
    assert_eq!((llama.head_dim, llama.bos_token_id), (16, Some(1)));
    assert_eq!(llama.max_position_embeddings, 2048);
    let llama = read(
        "llama",
        json!({ "num_key_value_heads": null, "bos_token_id": null }),
    )
    .unwrap();
    assert_eq!((llama.num_key_value_heads, llama.bos_token_id), (4, None));
    assert_eq!(
        read("llama", json!({ "pad_token_id": -1 }))
            .unwrap()
            .pad_token_id,
        None
    );
    assert_eq!(read("qwen3", json!({})).unwrap().head_dim, 128);
    assert_eq!(
        read("qwen3", json!({ "head_dim": 32 })).unwrap().head_dim,
        32
    );
    assert_eq!(read("qwen2", json!({})).unwrap().bos_token_id, None);
}

#[test]
fn biases_and_norms_follow_the_architecture() {
    let flags = |model_type, extra| {
        let config = read(model_type, extra).unwrap();
        (
            config.qkv_bias,
            config.output_bias,
            config.mlp_bias,
            config.qk_norm,
        )
    };
    assert_eq!(flags("llama", json!({})), (false, false, false, false));
    assert_eq!(
        flags("llama", json!({ "attention_bias": true, "mlp_bias": true })),
        (true, true, true, false)
    );
    assert_eq!(flags("qwen2", json!({})), (true, false, false, false));
    assert_eq!(
        flags("qwen3", json!({ "attention_bias": true })),
        (true, true, false, true)
    );
    assert_eq!(
        flags("mistral", json!({ "attention_bias": true })),
        (false, false, false, false)
    );
}

#[test]
fn windows_follow_the_architecture() {
    let windows = |model_type, extra| read(model_type, extra).unwrap().sliding_windows;
    assert_eq!(windows("llama", json!({ "sliding_window": 8 })), [None; 3]);
    assert_eq!(windows("mistral", json!({})), [Some(4096); 3]);
    assert_eq!(
        windows("mistral", json!({ "sliding_window": null })),
        [None; 3]
    );
    assert_eq!(
        windows(
            "qwen2",
            json!({ "sliding_window": 8, "max_window_layers": 1 })
        ),
        [None; 3]
    );
    let used = json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1 });
    assert_eq!(windows("qwen2", used), [None, Some(8), Some(8)]);
    let typed = json!({
        "use_sliding_window": true, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]
    });
    assert_eq!(windows("qwen3", typed), [Some(8), None, None]);
    assert!(
        message("qwen3", json!({ "layer_types": ["full_attention"] })).contains("each of 3 layers")
    );
}

#[test]
fn end_tokens_are_one_or_several() {
    let ids = |value| {
        read("llama", json!({ "eos_token_id": value }))
            .unwrap()
            .eos_token_ids
    };
    assert_eq!(ids(json!(5)), [5]);
    assert_eq!(ids(json!([5, 6])), [5, 6]);
    assert!(ids(json!(null)).is_empty());
    assert!(message("llama", json!({ "eos_token_id": 100 })).contains("below vocab_size"));
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let gemma = message("gemma3", json!({}));
    assert!(
        gemma.contains("gemma3") && gemma.contains("llama, mistral, qwen2, qwen3"),
        "{gemma}"
    );
    let yarn = message(
        "llama",
        json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }),
    );
    assert!(
        yarn.contains("yarn") && yarn.contains("default, linear, llama3"),
        "{yarn}"
    );
    assert!(message("llama", json!({ "hidden_act": "gelu" })).contains("gelu"));
    assert!(message("llama", json!({ "quantization_config": {} })).contains("quantised"));
    let awq = json!({ "quantization_config": { "quant_method": "awq" } });
    assert!(message("llama", awq).contains("awq is not supported"));
    assert!(
        message("llama", json!({ "partial_rotary_factor": 0.5 })).contains("partial_rotary_factor")
    );
    assert!(
        message("llama", json!({ "rope_scaling": { "type": "linear" } }))
            .contains("`factor` is absent")
    );
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    for (key, value) in [
        ("hidden_size", json!("64")),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(65)),
        ("vocab_size", json!(0)),
        ("num_hidden_layers", json!(4_000_000_000_u64)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("intermediate_size", json!(u64::MAX)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("head_dim", json!(1_u64 << 31)),
        ("rms_norm_eps", json!(0)),
        ("tie_word_embeddings", json!("yes")),
        ("eos_token_id", json!([1, -2])),
        ("vocab_size", json!(null)),
    ] {
        let text = message("llama", json!({ key: value }));
        assert!(text.contains(&format!("`{key}`")), "{key} {value}: {text}");
    }
    let not_an_object = from_hf_json(Path::new("config.json"), &json!([])).unwrap_err();
    assert!(not_an_object.to_string().contains("JSON object"));
}

/// What transformers 5 saved, and where the configuration differs, what transformers 4 did.
#[test]
fn what_transformers_saved_is_read_alike_in_both_versions() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let mut both = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let directory = entry.unwrap().path();
        let five = read_hf_config(&directory).unwrap();
        let json = to_hf_json(&directory, &five, WeightDtype::F32).unwrap();
        assert_eq!(from_hf_json(&directory, &json).unwrap(), five);
        let path = directory.join("config_v4.json");
        if path.exists() {
            let json = read_json(&path, MAX_CONFIG_BYTES).unwrap();
            assert_eq!(
                from_hf_json(&path, &json).unwrap(),
                five,
                "{}",
                path.display()
            );
            both += 1;
        }
    }
    assert!(both >= 2);
}

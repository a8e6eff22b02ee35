//! Small models and tokenizers for the tests of this crate.

use datasets::tokenizer::Tokenizer;
use model::build::Placement;
use model::config::{Architecture, DecoderConfig, RopeConfig, RopeScaling};
use model::decoder::Decoder;
use model::load::random_decoder;

/// A tokenizer whose ids are the places of the words in the list.
pub fn word_tokenizer(words: &[&str]) -> Tokenizer {
    let vocab: serde_json::Map<String, serde_json::Value> = (words.iter().enumerate())
        .map(|(id, word)| (word.to_string(), id.into()))
        .collect();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": { "Regex": "[a-z] ?" },
            "behavior": "Isolated",
            "invert": false
        },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": words[0] }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::from_file(&path).unwrap()
}

/// Two random layers without an end-of-sequence token.
pub fn tiny_decoder(vocab_size: usize, context: usize) -> Decoder {
    let config = DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        max_position_embeddings: context,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None; 2],
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
    };
    random_decoder(&config, &Placement::cpu(), 1)
}

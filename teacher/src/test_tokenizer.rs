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

/// A tokenizer of bytes that joins what `merges` lists, shorter ones first, with special tokens of which one ends a turn.
pub fn byte_tokenizer(merges: &[&[u8]], special: &[&str], end: &str) -> Tokenizer {
    let plain = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 0;
    let alphabet: Vec<char> = (0..=255_u8)
        .map(|byte| match plain(&byte) {
            true => char::from(byte),
            false => {
                others += 1;
                char::from_u32(255 + others).unwrap()
            }
        })
        .collect();
    let spelled = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .map(|byte| alphabet[usize::from(*byte)])
            .collect()
    };
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut pairs: Vec<String> = Vec::new();
    for merge in merges {
        let known = |part: &[u8]| tokens.contains(&spelled(part));
        let cut = (1..merge.len()).find(|cut| known(&merge[..*cut]) && known(&merge[*cut..]));
        let (a, b) = merge.split_at(cut.expect("both parts are tokens"));
        pairs.push(format!("{} {}", spelled(a), spelled(b)));
        tokens.push(spelled(merge));
    }
    let vocab: serde_json::Map<String, serde_json::Value> = (tokens.iter().enumerate())
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let added: Vec<serde_json::Value> = (special.iter().enumerate())
        .map(|(at, token)| {
            serde_json::json!({
                "id": tokens.len() + at, "content": token, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": { "type": "BPE", "vocab": vocab, "merges": pairs },
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let mut tokenizer = Tokenizer::from_file(&path).unwrap();
    tokenizer.add_eos_ids(&[tokenizer.token_id(end).unwrap()]);
    tokenizer
}

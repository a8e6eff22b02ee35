//! One name table for Hugging Face and GGUF, for reading and writing.
//!
//! Sources: the `named_parameters()` of transformers' Llama, Mistral, Qwen2 and Qwen3 models, and
//! `TENSOR_NAMES` of the `gguf` Python package.

use crate::config::{Architecture, DecoderConfig};

/// Tensors outside the layers: (Hugging Face, GGUF).
const OUTSIDE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Modules of a layer: Hugging Face after `model.layers.N.`, GGUF after `blk.N.`; both go on
/// with `.weight` or `.bias`.
const INSIDE: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Splits `{prefix}{layer}.{module}.{weight|bias}`.
fn parts<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let is_number = !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && matches!(kind, "weight" | "bias")).then_some((layer, module, kind))
}

/// GGUF's name of a tensor; `None` if it is none of a decoder's.
pub fn to_gguf(hf_name: &str) -> Option<String> {
    if let Some((_, gguf)) = OUTSIDE.iter().find(|(hf, _)| *hf == hf_name) {
        return Some((*gguf).to_owned());
    }
    let (layer, module, kind) = parts(hf_name, "model.layers.")?;
    let (_, gguf) = INSIDE.iter().find(|(hf, _)| *hf == module)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// Hugging Face's name of a tensor; `None` if it is none of a decoder's.
pub fn to_hf(gguf_name: &str) -> Option<String> {
    if let Some((hf, _)) = OUTSIDE.iter().find(|(_, gguf)| *gguf == gguf_name) {
        return Some((*hf).to_owned());
    }
    let (layer, module, kind) = parts(gguf_name, "blk.")?;
    let (hf, _) = INSIDE.iter().find(|(_, gguf)| *gguf == module)?;
    Some(format!("model.layers.{layer}.{hf}.{kind}"))
}

/// Every tensor of a model with this configuration: Hugging Face's name and row-major shape, in the
/// order in which the forward pass meets them.
pub fn expected_tensors(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let intermediate = config.intermediate_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;

    let mut tensors = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![config.vocab_size, hidden],
    )];
    for layer in 0..config.num_hidden_layers {
        let mut vector = |module: &str, length: usize| {
            tensors.push((
                format!("model.layers.{layer}.{module}.weight"),
                vec![length],
            ));
        };
        vector("input_layernorm", hidden);
        if config.qk_norm {
            vector("self_attn.q_norm", config.head_dim);
            vector("self_attn.k_norm", config.head_dim);
        }
        vector("post_attention_layernorm", hidden);
        for (module, rows, columns, has_bias) in [
            ("self_attn.q_proj", queries, hidden, config.qkv_bias),
            ("self_attn.k_proj", keys, hidden, config.qkv_bias),
            ("self_attn.v_proj", keys, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, queries, config.output_bias),
            ("mlp.gate_proj", intermediate, hidden, config.mlp_bias),
            ("mlp.up_proj", intermediate, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, intermediate, config.mlp_bias),
        ] {
            let name = format!("model.layers.{layer}.{module}");
            tensors.push((format!("{name}.weight"), vec![rows, columns]));
            if has_bias {
                tensors.push((format!("{name}.bias"), vec![rows]));
            }
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    tensors
}

/// Whether a tensor is the matrix of a linear layer in a block.
pub fn is_linear(hf_name: &str) -> bool {
    parts(hf_name, "model.layers.")
        .is_some_and(|(_, module, kind)| module.ends_with("_proj") && kind == "weight")
}

/// In how many heads a tensor's rows are permuted in GGUF, if they are.
///
/// llama.cpp turns neighbouring pairs of a Llama head (architectures `llama` and, under that name,
/// Mistral), where Hugging Face turns halves, so the converter interleaves the rows of the q and k
/// projections and their biases. Qwen's files keep Hugging Face's order.
pub fn permuted_heads(config: &DecoderConfig, hf_name: &str) -> Option<usize> {
    if !matches!(
        config.architecture,
        Architecture::Llama | Architecture::Mistral
    ) {
        return None;
    }
    match parts(hf_name, "model.layers.")?.1 {
        "self_attn.q_proj" => Some(config.num_attention_heads),
        "self_attn.k_proj" => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// Which row of a GGUF tensor holds row `row` of Hugging Face's: row j·d/2 + i of a head of length
/// d = `head_dim` (half j, position i) lies at 2·i + j.
pub fn gguf_row(row: usize, head_dim: usize) -> usize {
    let (head, row) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (row % half) + row / half
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::test_files::tiny_config;

    #[test]
    fn names_translate_both_ways() {
        let mut config = tiny_config(Architecture::Llama);
        (config.qkv_bias, config.output_bias, config.mlp_bias) = (true, true, true);
        (config.qk_norm, config.tie_word_embeddings) = (true, false);
        let tensors = expected_tensors(&config);
        assert_eq!(tensors.len(), 3 + 2 * (4 + 7 * 2));
        for (name, _) in tensors {
            let gguf = to_gguf(&name).unwrap();
            assert_eq!(to_hf(&gguf), Some(name));
        }
        assert_eq!(
            to_gguf("model.layers.7.self_attn.o_proj.bias").unwrap(),
            "blk.7.attn_output.bias"
        );
        for unknown in [
            "rope_freqs.weight",
            "blk.x.attn_q.weight",
            "blk..attn_q.weight",
            "blk.1.attn_q.scale",
        ] {
            assert_eq!(to_hf(unknown), None);
        }
    }

    #[test]
    fn only_llama_queries_and_keys_are_permuted() {
        let config = tiny_config(Architecture::Llama);
        let heads =
            |config, module| permuted_heads(config, &format!("model.layers.0.self_attn.{module}"));
        assert_eq!(heads(&config, "q_proj.weight"), Some(2));
        assert_eq!(heads(&config, "k_proj.bias"), Some(1));
        assert_eq!(heads(&config, "v_proj.weight"), None);
        assert_eq!(
            heads(&tiny_config(Architecture::Qwen2), "q_proj.weight"),
            None
        );
        // The converter writes rows 0 4 1 5 2 6 3 7 of a head of eight.
        let rows: Vec<_> = (8..16).map(|row| gguf_row(row, 8)).collect();
        assert_eq!(rows, [8, 10, 12, 14, 9, 11, 13, 15]);
    }
}

//! The decoder's configuration from GGUF metadata.
//!
//! Files made from Mistral models say `llama`, which computes the same. Where Hugging Face ties the
//! output head to the embedding, GGUF leaves `output.weight` out. Some files carry it all the same,
//! quantised differently (Qwen2.5 Coder 0.5B: the head is Q8_0, the embedding Q5_0): the model is
//! then read as untied, because using one of the two for both would not be the model that the file
//! holds.

use super::config_check::{self, MAX_LAYERS};
use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_keys::Keys;
use super::gguf_vocabulary::special_id;
use super::llama3_frequencies;
use crate::config::{Architecture, DecoderConfig, RopeConfig, RopeScaling};
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::dequantize;

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
pub(crate) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Reads the configuration of a llama, qwen2 or qwen3 file.
///
/// # Errors
/// [`WeightsError::Unsupported`] for other architectures, mixtures of experts and other RoPE
/// scalings; [`WeightsError::Key`] for missing keys and numbers that cannot be.
pub fn from_gguf(gguf: &Gguf) -> Result<DecoderConfig, WeightsError> {
    let path = gguf.path();
    let name = gguf.string("general.architecture")?.unwrap_or("absent");
    let architecture = match name {
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        other => {
            return Err(WeightsError::unsupported(
                path,
                "architecture",
                other,
                "llama, qwen2, qwen3",
            ));
        }
    };
    let keys = Keys { gguf, prefix: name };
    if keys
        .length("expert_count")?
        .is_some_and(|experts| experts > 0)
    {
        return Err(WeightsError::unsupported(
            path,
            "architecture",
            "mixture of experts",
            "dense decoders",
        ));
    }

    let layers = keys.required("block_count")?;
    let hidden_size = keys.required("embedding_length")?;
    let heads = keys.same_for_all_layers("attention.head_count", layers)?;
    let num_attention_heads =
        heads.ok_or_else(|| keys.absent("attention.head_count", "an integer"))?;
    let num_key_value_heads = keys
        .same_for_all_layers("attention.head_count_kv", layers)?
        .unwrap_or(num_attention_heads);
    let head_dim = match keys.length("attention.key_length")? {
        Some(length) => length,
        None => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
    };
    for other in ["attention.value_length", "rope.dimension_count"] {
        if let Some(length) = keys.length(other)?.filter(|length| *length != head_dim) {
            let expected = format!("the length of a head, {head_dim}");
            return Err(keys.wrong(other, length.to_string(), expected));
        }
    }
    let embedding = gguf
        .tensor(EMBEDDING)
        .ok_or_else(|| WeightsError::MissingTensor {
            path: path.to_owned(),
            tensor: EMBEDDING.to_owned(),
            hint: String::new(),
        })?;
    let vocab_size = embedding.shape.first().copied().unwrap_or(0);

    let max_position_embeddings = keys.required("context_length")?;
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let mut eos_token_ids = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        let id = special_id(gguf, kind, vocab_size)?;
        eos_token_ids.extend(id.filter(|id| !eos_token_ids.contains(id)));
    }
    let window = keys
        .length("attention.sliding_window")?
        .filter(|window| *window > 0 && *window < max_position_embeddings);
    let architecture = match (architecture, window) {
        (architecture, None) => architecture,
        (Architecture::Llama, Some(_)) => Architecture::Mistral,
        (_, Some(window)) => {
            let expected = "absent: this architecture does not say which layers have a window";
            return Err(keys.wrong("attention.sliding_window", window.to_string(), expected));
        }
    };
    let has = |tensor: &str| gguf.tensor(tensor).is_some();
    let feed_forward = keys.same_for_all_layers("feed_forward_length", layers)?;
    let config = DecoderConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size: feed_forward
            .ok_or_else(|| keys.absent("feed_forward_length", "an integer"))?,
        num_hidden_layers: layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: keys
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.absent("attention.layer_norm_rms_epsilon", "a number"))?,
        rope: RopeConfig {
            theta,
            scaling: scaling(&keys, theta, head_dim)?,
        },
        max_position_embeddings,
        tie_word_embeddings: is_tied(gguf),
        qkv_bias: architecture == Architecture::Qwen2 || has("blk.0.attn_q.bias"),
        output_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_up.bias"),
        qk_norm: architecture == Architecture::Qwen3,
        // The check below refuses more layers than this.
        sliding_windows: vec![window; layers.min(MAX_LAYERS)],
        bos_token_id: special_id(gguf, "bos", vocab_size)?,
        eos_token_ids,
        pad_token_id: special_id(gguf, "padding", vocab_size)?,
    };
    config_check::check(path, &config)?;
    Ok(config)
}

/// No head of its own, or one that repeats the embedding to the byte.
fn is_tied(gguf: &Gguf) -> bool {
    match (gguf.tensor(HEAD), gguf.tensor(EMBEDDING)) {
        (Some(head), Some(embedding)) => {
            head.kind == embedding.kind
                && head.shape == embedding.shape
                && gguf.tensor_bytes(head) == gguf.tensor_bytes(embedding)
        }
        _ => true,
    }
}

fn scaling(keys: &Keys, theta: f64, head_dim: usize) -> Result<RopeScaling, WeightsError> {
    let gguf = keys.gguf;
    if let Some(tensor) = gguf.tensor(ROPE_DIVISORS) {
        let pairs = head_dim / 2;
        if tensor.kind != GgmlType::F32 || tensor.shape != [pairs] {
            return Err(WeightsError::Shape {
                path: gguf.path().to_owned(),
                tensor: ROPE_DIVISORS.to_owned(),
                found: tensor.shape.clone(),
                expected: vec![pairs],
            });
        }
        let mut divisors = vec![0.0; pairs];
        dequantize(tensor.kind, gguf.tensor_bytes(tensor), pairs, &mut divisors)
            .map_err(|error| WeightsError::malformed(gguf.path(), error.to_string()))?;
        let original = keys.length(llama3_frequencies::ORIGINAL_LENGTH)?;
        return llama3_frequencies::recover(theta, &divisors, original).ok_or_else(|| {
            WeightsError::unsupported(
                gguf.path(),
                "RoPE scaling",
                format!("by the divisors in `{ROPE_DIVISORS}`"),
                "none, linear, llama3 (low_freq_factor 1, high_freq_factor 4)",
            )
        });
    }
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key's name before there were types.
        None => keys.float("rope.scale_linear")?,
    };
    let kind = gguf
        .string(&keys.name("rope.scaling.type"))?
        .unwrap_or("linear");
    match (kind, factor) {
        ("none", _) => Ok(RopeScaling::None),
        // 0 is how llama.cpp spells "not scaled".
        ("linear", None | Some(0.0 | 1.0)) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        (other, _) => Err(WeightsError::unsupported(
            gguf.path(),
            "RoPE scaling",
            other,
            "none, linear, llama3",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::test_files::{GgufFile, tiny_config, tiny_gguf, tiny_llama_gguf};

    fn read(file: &GgufFile) -> Result<DecoderConfig, WeightsError> {
        from_gguf(&file.open()?)
    }

    fn message(change: impl FnOnce(&mut GgufFile)) -> String {
        let mut file = tiny_llama_gguf();
        change(&mut file);
        read(&file).unwrap_err().to_string()
    }

    #[test]
    fn every_architecture_is_read() {
        for architecture in [
            Architecture::Llama,
            Architecture::Qwen2,
            Architecture::Qwen3,
        ] {
            let config = tiny_config(architecture);
            assert_eq!(read(&tiny_gguf(&config)).unwrap(), config);
        }
    }

    #[test]
    fn a_head_of_its_own_unties_unless_it_repeats_the_embedding() {
        let mut config = tiny_config(Architecture::Llama);
        config.tie_word_embeddings = false;
        let mut file = tiny_gguf(&config);
        assert_eq!(read(&file).unwrap(), config);
        let embedding = file.tensor_data("token_embd.weight").clone();
        *file.tensor_data("output.weight") = embedding;
        assert!(read(&file).unwrap().tie_word_embeddings);
    }

    #[test]
    fn scalings_of_rope_are_read() {
        let mut file = tiny_llama_gguf();
        file.set_string("llama.rope.scaling.type", "linear");
        file.set_f32("llama.rope.scaling.factor", 4.0);
        assert_eq!(
            read(&file).unwrap().rope.scaling,
            RopeScaling::Linear { factor: 4.0 }
        );
        file.set_string("llama.rope.scaling.type", "none");
        assert_eq!(read(&file).unwrap().rope.scaling, RopeScaling::None);

        let mut file = tiny_llama_gguf();
        file.add_f32_tensor("rope_freqs.weight", &[8], &[1.0; 8]);
        assert_eq!(read(&file).unwrap().rope.scaling, RopeScaling::None);
        *file.tensor_data("rope_freqs.weight") = [3.0_f32.to_le_bytes(); 8].concat();
        assert!(
            read(&file)
                .unwrap_err()
                .to_string()
                .contains("rope_freqs.weight")
        );
    }

    #[test]
    fn a_window_makes_it_mistral() {
        let mut file = tiny_llama_gguf();
        file.set_u32("llama.attention.sliding_window", 8);
        let config = read(&file).unwrap();
        assert_eq!(config.architecture, Architecture::Mistral);
        assert_eq!(config.sliding_windows, [Some(8); 2]);
        file.set_u32("llama.attention.sliding_window", 1 << 20);
        assert_eq!(read(&file).unwrap().architecture, Architecture::Llama);
    }

    #[test]
    fn numbers_for_each_layer_must_agree() {
        let mut file = tiny_llama_gguf();
        file.set_i32_array("llama.feed_forward_length", &[64, 64]);
        assert_eq!(read(&file).unwrap().intermediate_size, 64);
        file.set_i32_array("llama.feed_forward_length", &[64, 32]);
        assert!(
            read(&file)
                .unwrap_err()
                .to_string()
                .contains("for each layer")
        );
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let gemma = message(|file| file.set_string("general.architecture", "gemma3"));
        assert!(
            gemma.contains("gemma3") && gemma.contains("llama, qwen2, qwen3"),
            "{gemma}"
        );
        assert!(
            message(|file| file.set_u32("llama.expert_count", 8)).contains("mixture of experts")
        );
        assert!(
            message(|file| file.set_string("llama.rope.scaling.type", "yarn")).contains("yarn")
        );
        assert!(
            message(|file| file.set_u32("llama.rope.dimension_count", 4))
                .contains("dimension_count")
        );
        assert!(
            message(|file| file.set_u32("llama.attention.head_count", 0))
                .contains("num_attention_heads")
        );
        assert!(
            message(|file| file.set_u32("llama.block_count", u32::MAX))
                .contains("num_hidden_layers")
        );
        assert!(message(|file| file.set_string("llama.block_count", "2")).contains("the text"));
        assert!(
            message(|file| file.remove("llama.context_length"))
                .contains("context_length` is absent")
        );
    }
}

//! Keys and values of generation, and how many sequences are worth decoding together.

use model::config::DecoderConfig;

/// Bytes of the keys and values of `rows` sequences of `length` tokens: 2 · bytes · layers · kv_heads · head_dim · length · rows.
pub fn bytes(config: &DecoderConfig, length: usize, rows: usize, number: usize) -> u64 {
    let a_token = config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
    2 * (number * a_token) as u64 * length as u64 * rows as u64
}

/// The most sequences whose caches fit into `room` bytes.
pub fn largest_batch(config: &DecoderConfig, length: usize, number: usize, room: u64) -> u64 {
    room / bytes(config, length, 1, number).max(1)
}

/// From so many sequences on a decoding step computes longer than it reads weights: every weight of `number` bytes is read
/// once and takes 2 floating-point operations a sequence, so (FLOP/s · number) ÷ (2 · bytes/s).
pub fn decode_batch(flops: f64, bytes: f64, number: f64) -> f64 {
    flops * number / (2.0 * bytes)
}

/// The form of textbooks, FLOP/s ÷ (2 · bytes/s), which leaves out the bytes of a weight.
pub fn decode_batch_of_textbooks(flops: f64, bytes: f64) -> f64 {
    decode_batch(flops, bytes, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::machine::named;
    use crate::estimate::shape::ModelShape;

    fn config(json: serde_json::Value) -> DecoderConfig {
        model::weights::hf_config::from_hf_json(std::path::Path::new("test"), &json).unwrap()
    }

    fn llama(layers: usize, hidden: usize, ffn: usize, heads: usize) -> DecoderConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "vocab_size": 32000, "hidden_size": hidden, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096, "tie_word_embeddings": false,
        }))
    }

    #[test]
    fn llama_2_13b_keeps_three_gigabytes_a_sequence() {
        // 2 · 2 bytes · 40 layers · 40 heads · 128 · 4096 tokens.
        let config = llama(40, 5120, 13824, 40);
        assert_eq!(bytes(&config, 4096, 1, 2), 3_355_443_200);
        assert_eq!(largest_batch(&config, 4096, 2, 10_000_000_000), 2);
    }

    #[test]
    fn an_a100_computes_and_reads_for_equally_long_with_200_sequences() {
        let (flops, bytes) = named("a100").unwrap().rates();
        assert_eq!(decode_batch(flops, bytes, 2.0) as u64, 200);
        assert_eq!(decode_batch_of_textbooks(flops, bytes) as u64, 100);
    }

    #[test]
    fn weights_take_their_bits() {
        // Llama-2-7B: 6.74 billion values.
        let parameters = ModelShape::dense(llama(32, 4096, 11008, 32)).parameters();
        assert_eq!(parameters, 6_738_415_616);
        let gigabytes = |parameters: f64, bits: f64| parameters * bits / 8e9;
        assert!((gigabytes(7e9, 16.0) - 14.0).abs() < 1e-9);
        // 15.5 billion, as OctoCoder: 31, 15.5 and 7.75 GB.
        for (bits, wanted) in [(16.0, 31.0), (8.0, 15.5), (4.0, 7.75)] {
            assert!((gigabytes(15.5e9, bits) - wanted).abs() < 1e-9);
        }
    }
}

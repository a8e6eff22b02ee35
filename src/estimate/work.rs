//! How much there is to compute: floating-point operations from shapes, a multiplication and an addition each.

use model::config::DecoderConfig;
use serde::{Deserialize, Serialize};

use super::activations::Holding;

/// Operations and bytes of one step, or of one pass over some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Forward and backward through the blocks of what is trained.
    pub train: f64,
    /// Logits, losses and the head's way back.
    pub head: f64,
    /// Forward through the blocks of models that are only asked.
    pub ask: f64,
    /// What the optimizer reads and writes.
    pub optimizer_bytes: f64,
    /// Weights that are read to write one token after the other.
    pub decode_bytes: f64,
    /// Written and waited for.
    pub disk_bytes: f64,
    /// Weights that are rounded anew.
    pub rounded: f64,
}

/// What a machine does of each in a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub train: f64,
    pub head: f64,
    pub ask: f64,
    pub bytes: f64,
    pub disk: f64,
    pub round: f64,
}

impl Work {
    pub fn times(self, factor: f64) -> Self {
        Self {
            train: self.train * factor,
            head: self.head * factor,
            ask: self.ask * factor,
            optimizer_bytes: self.optimizer_bytes * factor,
            decode_bytes: self.decode_bytes * factor,
            disk_bytes: self.disk_bytes * factor,
            rounded: self.rounded * factor,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            train: self.train + other.train,
            head: self.head + other.head,
            ask: self.ask + other.ask,
            optimizer_bytes: self.optimizer_bytes + other.optimizer_bytes,
            decode_bytes: self.decode_bytes + other.decode_bytes,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            rounded: self.rounded + other.rounded,
        }
    }

    pub fn seconds(&self, rates: &Rates) -> f64 {
        self.train / rates.train
            + self.head / rates.head
            + self.ask / rates.ask
            + (self.optimizer_bytes + self.decode_bytes) / rates.bytes
            + self.disk_bytes / rates.disk
            + self.rounded / rates.round
    }
}

/// Values of the matrices of a block.
pub fn block_values(config: &DecoderConfig) -> f64 {
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    (hidden * (2 * queries + 2 * keys + 3 * ffn)) as f64
}

/// Queries and keys that meet where tokens see those before them in texts of one length.
pub fn causal(tokens: usize, length: usize) -> f64 {
    tokens as f64 * (length as f64 + 1.0) / 2.0
}

/// The products of scores and of values in a block.
fn attention(config: &DecoderConfig, seen: f64) -> f64 {
    4.0 * seen * (config.num_attention_heads * config.head_dim) as f64
}

/// One block forward, over positions of which so many queries and keys meet.
pub fn block_forward(config: &DecoderConfig, positions: usize, seen: f64) -> f64 {
    2.0 * positions as f64 * block_values(config) + attention(config, seen)
}

/// One block forward and backward. Backward every matrix is taken once for its input's gradient and, where it is trained,
/// once for its own; attention computes 5 products where forward are 2. With `checkpoint` all but the last product comes
/// once more.
pub fn block_train(
    config: &DecoderConfig,
    holding: Holding,
    positions: usize,
    seen: f64,
    checkpoint: bool,
) -> f64 {
    let forward = 2.0 * positions as f64 * block_values(config);
    let passes = match holding {
        Holding::Trained => 3.0,
        _ => 2.0,
    };
    let again = match checkpoint {
        true => {
            let last = 2 * positions * config.hidden_size * config.intermediate_size;
            block_forward(config, positions, seen) - last as f64
        }
        false => 0.0,
    };
    passes * forward + 3.5 * attention(config, seen) + again
}

/// Logits of `positions` positions, and their way back through the head; of pairs with a trained head the logits come twice.
pub fn head_train(config: &DecoderConfig, trains_head: bool, positions: usize, pairs: bool) -> f64 {
    let passes = match (trains_head, pairs) {
        (true, true) => 4.0,
        (true, false) => 3.0,
        (false, _) => 2.0,
    };
    passes * head_forward(config, positions)
}

pub fn head_forward(config: &DecoderConfig, positions: usize) -> f64 {
    2.0 * positions as f64 * (config.vocab_size * config.hidden_size) as f64
}

/// AdamW reads value, gradient and two moments and writes three of them.
pub fn optimizer_bytes(trained: u64) -> f64 {
    7.0 * 4.0 * trained as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> DecoderConfig {
        let json = serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": true,
        });
        model::weights::hf_config::from_hf_json(std::path::Path::new("test"), &json).unwrap()
    }

    #[test]
    fn operations_follow_from_shapes() {
        let config = tiny();
        // q and o 4·4, k and v 4·2, gate, up and down 4·6.
        assert_eq!(block_values(&config), 16.0 * 2.0 + 8.0 * 2.0 + 24.0 * 3.0);
        // 3 tokens see 1 + 2 + 3 keys; 4 operations a pair and column.
        let scores = 4.0 * 6.0 * 4.0;
        let seen = causal(3, 3);
        assert_eq!(block_forward(&config, 3, seen), 2.0 * 3.0 * 120.0 + scores);
        let full = block_train(&config, Holding::Trained, 3, seen, false);
        assert_eq!(full, 3.0 * 720.0 + 3.5 * scores);
        let again = block_train(&config, Holding::Trained, 3, seen, true);
        assert_eq!(again - full, 720.0 + scores - 2.0 * 3.0 * 24.0);
        assert_eq!(head_train(&config, true, 5, false), 3.0 * 2.0 * 5.0 * 40.0);
        assert_eq!(optimizer_bytes(10), 280.0);
    }
}

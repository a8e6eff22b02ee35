//! Limits that every configuration from a file must keep, so that nothing computed from it
//! overflows.

use std::path::Path;

use super::error::WeightsError;
use crate::config::{DecoderConfig, RopeScaling};

/// Widest axis: products of two lengths fit into 63 bits.
const MAX_LENGTH: usize = 1 << 31;
/// More layers than any model has; a list with an entry for each stays small.
pub(crate) const MAX_LAYERS: usize = 10_000;

/// # Errors
/// [`WeightsError::Key`] under Hugging Face's name of the number that cannot be.
pub(crate) fn check(path: &Path, config: &DecoderConfig) -> Result<(), WeightsError> {
    let key = |key: &str, found: String, expected: String| {
        Err(WeightsError::key(path, key, found, expected))
    };
    for (name, value, limit) in [
        ("vocab_size", config.vocab_size, MAX_LENGTH),
        ("hidden_size", config.hidden_size, MAX_LENGTH),
        ("intermediate_size", config.intermediate_size, MAX_LENGTH),
        ("num_hidden_layers", config.num_hidden_layers, MAX_LAYERS),
        (
            "num_attention_heads",
            config.num_attention_heads,
            MAX_LENGTH,
        ),
        (
            "num_key_value_heads",
            config.num_key_value_heads,
            MAX_LENGTH,
        ),
        ("head_dim", config.head_dim, MAX_LENGTH),
        (
            "max_position_embeddings",
            config.max_position_embeddings,
            MAX_LENGTH,
        ),
    ] {
        if value == 0 || value > limit {
            return key(name, value.to_string(), format!("1 to {limit}"));
        }
    }
    if !config
        .num_attention_heads
        .is_multiple_of(config.num_key_value_heads)
    {
        let expected = format!(
            "a divisor of num_attention_heads, {}",
            config.num_attention_heads
        );
        return key(
            "num_key_value_heads",
            config.num_key_value_heads.to_string(),
            expected,
        );
    }
    // Rotary embeddings turn pairs.
    if !config.head_dim.is_multiple_of(2) {
        return key(
            "head_dim",
            config.head_dim.to_string(),
            "an even number".to_owned(),
        );
    }
    if config.num_attention_heads * config.head_dim > MAX_LENGTH {
        let found = format!(
            "{} in {} heads",
            config.head_dim, config.num_attention_heads
        );
        return key(
            "head_dim",
            found,
            format!("at most {MAX_LENGTH} over all heads"),
        );
    }
    let mut positive = vec![
        ("rms_norm_eps", config.rms_norm_eps),
        ("rope_theta", config.rope.theta),
    ];
    match config.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => positive.push(("factor", factor)),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            positive.extend([
                ("factor", factor),
                ("low_freq_factor", low_freq_factor),
                (
                    "original_max_position_embeddings",
                    original_max_position_embeddings as f64,
                ),
            ]);
            if high_freq_factor.partial_cmp(&low_freq_factor) != Some(std::cmp::Ordering::Greater) {
                let expected = format!("more than low_freq_factor, {low_freq_factor}");
                return key("high_freq_factor", high_freq_factor.to_string(), expected);
            }
        }
    }
    for (name, value) in positive {
        if !(value.is_finite() && value > 0.0) {
            return key(name, value.to_string(), "a positive number".to_owned());
        }
    }
    for (name, id) in config
        .eos_token_ids
        .iter()
        .map(|id| ("eos_token_id", *id))
        .chain(config.bos_token_id.map(|id| ("bos_token_id", id)))
        .chain(config.pad_token_id.map(|id| ("pad_token_id", id)))
    {
        if id as usize >= config.vocab_size {
            let expected = format!("a token id below vocab_size, {}", config.vocab_size);
            return key(name, id.to_string(), expected);
        }
    }
    Ok(())
}

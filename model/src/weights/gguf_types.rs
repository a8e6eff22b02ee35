//! Which type each tensor of a GGUF file gets.
//!
//! Matrices get the type that was asked for; norms and biases stay F32, as llama.cpp wants them. The head, which is
//! the embedding of a tied model, is kept finer than the rest, as llama.cpp's own quantiser does: each of its rows is
//! a token, and errors there are errors of a logit. Rows that are not whole blocks of the type get the next finer type of shorter
//! blocks.

use super::names::expected_tensors;
use crate::config::DecoderConfig;
use crate::quant::block_type::GgmlType;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A tensor as the file will hold it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTensor {
    /// Hugging Face's name.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    pub kind: GgmlType,
    /// The type that its rows are not whole blocks of, if there is one.
    pub instead_of: Option<GgmlType>,
}

/// Every tensor of the model, in the order in which the forward pass meets them.
pub fn plan_tensors(config: &DecoderConfig, kind: GgmlType) -> Vec<PlannedTensor> {
    let tensors = expected_tensors(config).into_iter();
    tensors
        .map(|(name, shape)| {
            let is_head = name == HEAD || name == EMBEDDING && config.tie_word_embeddings;
            let wanted = match shape.len() {
                1 => GgmlType::F32,
                _ if is_head => head_type(kind),
                _ => kind,
            };
            let kind = fitting(wanted, shape.last().copied().unwrap_or(1));
            PlannedTensor {
                name,
                shape,
                kind,
                instead_of: (kind != wanted).then_some(wanted),
            }
        })
        .collect()
}

/// The type of the head in a file of this type.
fn head_type(kind: GgmlType) -> GgmlType {
    match kind {
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => kind,
        GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => GgmlType::Q6K,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {
            GgmlType::Q8_0
        }
    }
}

/// The first type on the way to F16 of which a row is whole blocks.
fn fitting(kind: GgmlType, row: usize) -> GgmlType {
    if kind.bytes_of(row).is_some() {
        return kind;
    }
    match kind {
        GgmlType::Q4K => fitting(GgmlType::Q5_0, row),
        GgmlType::Q5K => fitting(GgmlType::Q5_1, row),
        GgmlType::Q6K => fitting(GgmlType::Q8_0, row),
        _ => GgmlType::F16,
    }
}

/// llama.cpp's number for a file whose matrices mostly have this type (`llama_ftype`).
pub(crate) fn file_type(kind: GgmlType) -> u32 {
    match kind {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::Q4K => 14,
        GgmlType::Q5K => 16,
        GgmlType::Q6K => 18,
        GgmlType::Bf16 => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;
    use crate::weights::test_files::tiny_config;

    fn types(hidden: usize, tied: bool, kind: GgmlType) -> Vec<(String, GgmlType)> {
        let mut config = tiny_config(Architecture::Llama);
        (config.hidden_size, config.intermediate_size) = (hidden, 512);
        config.tie_word_embeddings = tied;
        let tensors = plan_tensors(&config, kind).into_iter();
        tensors.map(|tensor| (tensor.name, tensor.kind)).collect()
    }

    fn of(types: &[(String, GgmlType)], name: &str) -> GgmlType {
        types
            .iter()
            .find(|(other, _)| other.ends_with(name))
            .unwrap()
            .1
    }

    #[test]
    fn heads_are_finer_and_norms_are_f32() {
        for (kind, head) in [
            (GgmlType::F16, GgmlType::F16),
            (GgmlType::Q4_0, GgmlType::Q8_0),
            (GgmlType::Q8_0, GgmlType::Q8_0),
            (GgmlType::Q4K, GgmlType::Q6K),
        ] {
            let tied = types(256, true, kind);
            assert_eq!(of(&tied, "embed_tokens.weight"), head);
            assert_eq!(of(&tied, "q_proj.weight"), kind);
            assert_eq!(of(&tied, "norm.weight"), GgmlType::F32);
            let untied = types(256, false, kind);
            assert_eq!(of(&untied, "lm_head.weight"), head);
            assert_eq!(of(&untied, "embed_tokens.weight"), kind);
        }
    }

    #[test]
    fn rows_that_are_not_whole_blocks_fall_back() {
        let by_32 = types(96, true, GgmlType::Q4K);
        assert_eq!(of(&by_32, "embed_tokens.weight"), GgmlType::Q8_0);
        assert_eq!(of(&by_32, "up_proj.weight"), GgmlType::Q5_0);
        assert_eq!(of(&by_32, "down_proj.weight"), GgmlType::Q4K);
        let odd = types(80, true, GgmlType::Q4K);
        assert_eq!(of(&odd, "embed_tokens.weight"), GgmlType::F16);
        assert_eq!(of(&odd, "up_proj.weight"), GgmlType::F16);
        assert_eq!(
            of(&types(80, true, GgmlType::Q8_0), "up_proj.weight"),
            GgmlType::F16
        );
        let config = tiny_config(Architecture::Llama);
        let tensors = plan_tensors(&config, GgmlType::Q6K);
        let up = tensors
            .iter()
            .find(|t| t.name.ends_with("up_proj.weight"))
            .unwrap();
        assert_eq!(
            (up.kind, up.instead_of),
            (GgmlType::Q8_0, Some(GgmlType::Q6K))
        );
    }
}

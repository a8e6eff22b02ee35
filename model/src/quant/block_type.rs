//! The block formats of GGUF that this program reads: identifiers, block lengths and byte sizes.
//!
//! Source: `ggml.h` (`enum ggml_type`) and `ggml-common.h` (block structures) of llama.cpp.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tensor type of GGUF. Values are stored in blocks along the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GgmlType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl GgmlType {
    /// Every type that can be read, in the order of the identifiers in the file.
    pub const ALL: [GgmlType; 11] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::Bf16,
    ];

    /// The type of an identifier in a GGUF file; `None` for those that cannot be read.
    pub fn from_u32(identifier: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.identifier() == identifier)
    }

    /// The number that stands for this type in a GGUF file.
    pub fn identifier(self) -> u32 {
        match self {
            GgmlType::F32 => 0,
            GgmlType::F16 => 1,
            GgmlType::Q4_0 => 2,
            GgmlType::Q4_1 => 3,
            GgmlType::Q5_0 => 6,
            GgmlType::Q5_1 => 7,
            GgmlType::Q8_0 => 8,
            GgmlType::Q4K => 12,
            GgmlType::Q5K => 13,
            GgmlType::Q6K => 14,
            GgmlType::Bf16 => 30,
        }
    }

    /// The name that ggml and its tools print.
    pub fn name(self) -> &'static str {
        match self {
            GgmlType::F32 => "F32",
            GgmlType::F16 => "F16",
            GgmlType::Bf16 => "BF16",
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q4K => "Q4_K",
            GgmlType::Q5K => "Q5_K",
            GgmlType::Q6K => "Q6_K",
        }
    }

    /// The type of this name, however it is capitalised.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut kinds = Self::ALL.into_iter();
        kinds.find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Values in a block; a row's length is a multiple of it.
    pub fn block_len(self) -> usize {
        match self {
            GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => 1,
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {
                32
            }
            GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => 256,
        }
    }

    /// Bytes that a block takes in the file.
    pub fn block_bytes(self) -> usize {
        match self {
            GgmlType::F32 => 4,
            GgmlType::F16 | GgmlType::Bf16 => 2,
            // f16 scale [, f16 minimum] [, 32 high bits], packed values.
            GgmlType::Q4_0 => 2 + 16,
            GgmlType::Q4_1 => 2 + 2 + 16,
            GgmlType::Q5_0 => 2 + 4 + 16,
            GgmlType::Q5_1 => 2 + 2 + 4 + 16,
            GgmlType::Q8_0 => 2 + 32,
            // f16 scale, f16 minimum, 12 bytes of 6-bit scales [, high bits], packed values.
            GgmlType::Q4K => 2 + 2 + 12 + 128,
            GgmlType::Q5K => 2 + 2 + 12 + 32 + 128,
            // Low nibbles, high bit pairs, 16 signed scales, f16 scale.
            GgmlType::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of `values` consecutive values, or `None` if they do not fill whole blocks or the
    /// number overflows.
    pub fn bytes_of(self, values: usize) -> Option<usize> {
        if !values.is_multiple_of(self.block_len()) {
            return None;
        }
        (values / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The names of every type that can be read, for messages.
    pub fn accepted_names() -> String {
        Self::ALL.map(GgmlType::name).join(", ")
    }
}

/// How ggml calls a type identifier, readable or not, so that an error can name it.
pub fn ggml_type_name(identifier: u32) -> String {
    if let Some(kind) = GgmlType::from_u32(identifier) {
        return kind.name().to_owned();
    }
    let name = match identifier {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {identifier}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_back() {
        for kind in GgmlType::ALL {
            assert_eq!(GgmlType::from_u32(kind.identifier()), Some(kind));
            assert_eq!(ggml_type_name(kind.identifier()), kind.name());
            assert_eq!(GgmlType::from_name(kind.name()), Some(kind));
            // Recipes write the same names in small letters.
            let name = serde_json::to_value(kind).unwrap();
            assert_eq!(name, kind.name().to_lowercase());
        }
        assert_eq!(GgmlType::from_u32(10), None);
        assert_eq!(ggml_type_name(10), "Q2_K");
        assert_eq!(ggml_type_name(u32::MAX), "number 4294967295");
    }

    #[test]
    fn sizes_refuse_partial_blocks_and_overflow() {
        assert_eq!(GgmlType::Q4_1.bytes_of(576), Some(360));
        assert_eq!(GgmlType::Q6K.bytes_of(512), Some(420));
        assert_eq!(GgmlType::Q4_1.bytes_of(33), None);
        assert_eq!(GgmlType::F32.bytes_of(usize::MAX), None);
    }
}

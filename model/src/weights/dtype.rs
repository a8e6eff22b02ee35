//! Floating-point types of stored tensors.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// How a tensor's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightDtype {
    F32,
    F16,
    Bf16,
}

/// A value that the type's range does not reach; the index counts row-major.
#[derive(Debug, PartialEq)]
pub struct OutOfRange {
    pub index: usize,
    pub value: f32,
}

impl WeightDtype {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            WeightDtype::F32 => 4,
            WeightDtype::F16 | WeightDtype::Bf16 => 2,
        }
    }

    /// The name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            WeightDtype::F32 => "F32",
            WeightDtype::F16 => "F16",
            WeightDtype::Bf16 => "BF16",
        }
    }

    /// The name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            WeightDtype::F32 => "float32",
            WeightDtype::F16 => "float16",
            WeightDtype::Bf16 => "bfloat16",
        }
    }

    /// Appends `values` as little-endian bytes, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// If a finite value is rounded to infinity; `bytes` then ends anywhere.
    pub fn encode(self, values: &[f32], bytes: &mut Vec<u8>) -> Result<(), OutOfRange> {
        bytes.reserve(values.len().saturating_mul(self.size()));
        match self {
            WeightDtype::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            WeightDtype::F16 => {
                // In runs, because `half` converts slices with the processor's own instruction.
                let mut run = [f16::ZERO; 256];
                for (number, values) in values.chunks(run.len()).enumerate() {
                    let halves = &mut run[..values.len()];
                    halves.convert_from_f32_slice(values);
                    for (i, (half, value)) in halves.iter().zip(values).enumerate() {
                        if half.is_infinite() && value.is_finite() {
                            return Err(OutOfRange {
                                index: number * 256 + i,
                                value: *value,
                            });
                        }
                        bytes.extend(half.to_le_bytes());
                    }
                }
            }
            WeightDtype::Bf16 => {
                for (index, value) in values.iter().enumerate() {
                    let rounded = bf16::from_f32(*value);
                    if rounded.is_infinite() && value.is_finite() {
                        return Err(OutOfRange {
                            index,
                            value: *value,
                        });
                    }
                    bytes.extend(rounded.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(dtype: WeightDtype, value: f32) -> u16 {
        let mut bytes = Vec::new();
        dtype.encode(&[value], &mut bytes).unwrap();
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    #[test]
    fn ties_go_to_the_even_neighbour() {
        // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷ of bf16; 1 + 3·2⁻⁸ between that and 1 + 2⁻⁶.
        assert_eq!(bits(WeightDtype::Bf16, 1.0 + 0.003_906_25), 0x3f80);
        assert_eq!(bits(WeightDtype::Bf16, 1.0 + 3.0 * 0.003_906_25), 0x3f82);
        assert_eq!(bits(WeightDtype::F16, 1.0 + 2_f32.powi(-11)), 0x3c00);
        assert_eq!(bits(WeightDtype::F16, 1.0 + 3.0 * 2_f32.powi(-11)), 0x3c02);
        assert_eq!(bits(WeightDtype::F16, 2_f32.powi(-24)), 1);
    }

    #[test]
    fn overflow_is_an_error_and_infinity_is_not() {
        let mut values = [0.5; 300];
        values[299] = 70_000.0;
        let mut bytes = Vec::new();
        let error = WeightDtype::F16.encode(&values, &mut bytes).unwrap_err();
        assert_eq!(
            error,
            OutOfRange {
                index: 299,
                value: 70_000.0
            }
        );
        assert!(WeightDtype::Bf16.encode(&[f32::MAX], &mut bytes).is_err());
        assert_eq!(bits(WeightDtype::F16, f32::INFINITY), 0x7c00);
        assert!(f16::from_bits(bits(WeightDtype::F16, f32::NAN)).is_nan());
    }
}

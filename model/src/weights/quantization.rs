//! What stands beside a quantised model: `quantization.json` says how each linear layer was rounded,
//! `quantization.safetensors` has the codes. The model's own files hold the values that these stand for, so that a
//! reader who knows nothing of this sees a model as any other.
//!
//! Tensors of a module: of integers `codes` u8 `[rows, columns]`, one a byte, `scales` `[rows, groups]`, `zeros` u8
//! `[rows, groups]` and, where columns are not in order, `group_of_column` i32 `[columns]`; value = scale · (code −
//! zero). Of NF4 `codes` u8, two a byte, the first in the high half, `scales` u8, `ranges` f32, `offset` f32 `[1]`, as
//! [`Nf4`](crate::quant::nf4::Nf4) has them. Of activations `activation_range` f32 `[2]`, `outlier_columns` i32 and
//! `outlier_weights` f16 `[rows, outliers]`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::WeightsError;
pub use super::quantization_reader::Quantization;
use super::staged_directory::StagedDirectory;
use crate::linear::{ActivationScheme, Codes, QuantizedLinear};

pub const QUANTIZATION_FILE: &str = "quantization.json";
pub(super) const CODES_FILE: &str = "quantization.safetensors";
/// Raised when a reader of before would misunderstand the files.
pub(super) const FORMAT: u64 = 1;

/// What the file says of a layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerEntry {
    pub codes: CodesEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationsEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum CodesEntry {
    Integer {
        bits: u8,
        group_size: usize,
        /// Whether there is a `group_of_column`.
        reordered: bool,
    },
    Nf4 {},
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivationsEntry {
    pub scheme: ActivationScheme,
    pub range: RangeOf,
    /// How many columns are left as they are.
    pub outliers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RangeOf {
    Token,
    /// Of all tokens of the calibration data.
    Calibration,
}

/// Writes both files into a directory that the caller commits; `method` says in the user's words what was done, and
/// layers bear the names of their modules: `model.layers.0.self_attn.q_proj`.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn write_quantization(
    staged: &StagedDirectory,
    method: &Value,
    layers: &BTreeMap<String, QuantizedLinear>,
) -> Result<(), WeightsError> {
    let mut tensors = Vec::new();
    for (module, layer) in layers {
        let named = tensors_of(layer).into_iter();
        tensors.extend(named.map(|(name, array)| (format!("{module}.{name}"), array)));
    }
    staged.write_safetensors(CODES_FILE, tensors, None)?;
    let entries: BTreeMap<&String, LayerEntry> = (layers.iter())
        .map(|(module, layer)| (module, LayerEntry::of(layer)))
        .collect();
    let json = json!({ "format": FORMAT, "method": method, "layers": entries });
    staged.write(QUANTIZATION_FILE, format!("{json:#}\n").as_bytes())
}

impl LayerEntry {
    fn of(layer: &QuantizedLinear) -> Self {
        let range = |calibrated| match calibrated {
            true => RangeOf::Calibration,
            false => RangeOf::Token,
        };
        Self {
            codes: match &layer.codes {
                Codes::Integer(matrix) => CodesEntry::Integer {
                    bits: matrix.bits,
                    group_size: matrix.group_size,
                    reordered: matrix.group_of_column.is_some(),
                },
                Codes::Nf4(_) => CodesEntry::Nf4 {},
            },
            activations: layer.activations.as_ref().map(|found| ActivationsEntry {
                scheme: found.scheme,
                range: range(found.range.is_some()),
                outliers: found.outliers.len(),
            }),
        }
    }
}

/// An array as it is written.
struct Stored<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn tensors_of(layer: &QuantizedLinear) -> Vec<(&'static str, Stored<'_>)> {
    let [rows, columns] = layer.shape();
    let mut tensors = match &layer.codes {
        Codes::Integer(matrix) => {
            let groups = vec![rows, matrix.groups()];
            let mut tensors = vec![
                ("codes", bytes(&matrix.codes, vec![rows, columns])),
                ("scales", scales(&matrix.scales, groups.clone())),
                ("zeros", bytes(&matrix.zeros, groups)),
            ];
            if let Some(order) = &matrix.group_of_column {
                tensors.push(("group_of_column", numbers(order)));
            }
            tensors
        }
        Codes::Nf4(nf4) => vec![
            ("codes", bytes(nf4.codes(), vec![nf4.codes().len()])),
            ("scales", bytes(nf4.scales(), vec![nf4.scales().len()])),
            ("ranges", floats(nf4.ranges(), vec![nf4.ranges().len()])),
            ("offset", floats(&[nf4.offset()], vec![1])),
        ],
    };
    if let Some(activations) = &layer.activations {
        if let Some(range) = &activations.range {
            tensors.push(("activation_range", floats(range, vec![2])));
        }
        if !activations.outliers.is_empty() {
            let shape = vec![rows, activations.outliers.len()];
            tensors.push(("outlier_columns", numbers(&activations.outliers)));
            tensors.push(("outlier_weights", halves(&layer.outliers, shape)));
        }
    }
    tensors
}

fn bytes(values: &[u8], shape: Vec<usize>) -> Stored<'_> {
    Stored {
        dtype: Dtype::U8,
        shape,
        bytes: Cow::Borrowed(values),
    }
}

/// In 16 bits where that changes none of them.
fn scales(values: &[f32], shape: Vec<usize>) -> Stored<'static> {
    let mut narrow = vec![f16::ZERO; values.len()];
    narrow.convert_from_f32_slice(values);
    let is_exact = |(half, value): (&f16, &f32)| half.to_f32() == *value;
    match narrow.iter().zip(values).all(is_exact) {
        true => halves(&narrow, shape),
        false => floats(values, shape),
    }
}

fn halves(values: &[f16], shape: Vec<usize>) -> Stored<'static> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    Stored {
        dtype: Dtype::F16,
        shape,
        bytes: bytes.collect(),
    }
}

fn floats(values: &[f32], shape: Vec<usize>) -> Stored<'static> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    Stored {
        dtype: Dtype::F32,
        shape,
        bytes: bytes.collect(),
    }
}

fn numbers(values: &[u32]) -> Stored<'static> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    Stored {
        dtype: Dtype::I32,
        shape: vec![values.len()],
        bytes: bytes.collect(),
    }
}

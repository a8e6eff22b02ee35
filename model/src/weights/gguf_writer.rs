//! GGUF files, version 3, written tensor by tensor: one is in memory at a time.

use std::io::{self, Seek, Write};
use std::path::Path;

use super::error::WeightsError;
use super::gguf_config::ROPE_DIVISORS;
use super::gguf_metadata::{Metadata, architecture_name, put_text};
use super::gguf_types::{PlannedTensor, file_type, plan_tensors};
use super::llama3_frequencies::stored_divisors;
use super::names;
use super::staged_file::StagedFile;
use crate::config::{DecoderConfig, RopeScaling};
use crate::quant::block_type::GgmlType;
use crate::quant::quantise::quantize_rows;

const ALIGNMENT: u32 = 32;

/// What is written, for those who want to tell of it.
#[derive(Debug)]
pub struct GgufSummary {
    /// The model's tensors, in the order of the file.
    pub tensors: Vec<PlannedTensor>,
    /// Of the whole file.
    pub bytes: u64,
}

/// A tensor's header and what its data take.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: GgmlType,
    bytes: u64,
}

/// Writes a model of this type into a file that the caller commits. `metadata` holds the name and the tokenizer; what
/// the model is follows from `config`. `tensor` gives the values of a tensor by Hugging Face's name, row-major.
///
/// # Errors
/// The first of `tensor`; [`WeightsError::Unwritable`] for a configuration that the format has no keys for, and for
/// values that the type cannot hold; [`WeightsError::Io`].
pub fn write_gguf<E: From<WeightsError>>(
    staged: &mut StagedFile,
    config: &DecoderConfig,
    kind: GgmlType,
    metadata: &Metadata,
    mut tensor: impl FnMut(&str) -> Result<Vec<f32>, E>,
) -> Result<GgufSummary, E> {
    let path = staged.target().to_owned();
    let mut own = Metadata::default();
    own.general(
        architecture_name(config.architecture),
        file_type(kind),
        ALIGNMENT,
    );
    own.decoder(&path, config)?;
    let divisors = rope_divisors(&path, config)?;
    let tensors = plan_tensors(config, kind);
    let entries = entries(&path, divisors.as_ref().map(Vec::len), &tensors)?;

    let io = |error: io::Error| WeightsError::io(&path)(error);
    let mut out = Aligned {
        file: staged.file(),
    };
    out.write(&head(&[&own, metadata], &entries)).map_err(io)?;
    if let Some(divisors) = divisors {
        let bytes: Vec<u8> = divisors
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        out.write(&bytes).map_err(io)?;
    }
    for planned in &tensors {
        let values = in_file_order(config, planned, tensor(&planned.name)?);
        let row = planned.shape.last().copied().unwrap_or(1);
        let whole = planned.shape.iter().product::<usize>();
        if values.len() != whole {
            let (name, found) = (&planned.name, values.len());
            let problem = format!("tensor `{name}`: {found} values, expected {whole}");
            return Err(WeightsError::unwritable(&path, problem).into());
        }
        let bytes = quantize_rows(planned.kind, &values, row).map_err(|error| {
            WeightsError::unwritable(&path, format!("tensor `{}`: {error}", planned.name))
        })?;
        out.write(&bytes).map_err(io)?;
    }
    let bytes = staged.file().stream_position().map_err(io)?;
    Ok(GgufSummary { tensors, bytes })
}

/// `llama3` scaling as the format has it.
fn rope_divisors(path: &Path, config: &DecoderConfig) -> Result<Option<Vec<f32>>, WeightsError> {
    let scaling = &config.rope.scaling;
    if !matches!(scaling, RopeScaling::Llama3 { .. }) {
        return Ok(None);
    }
    let divisors = stored_divisors(config.rope.theta, config.head_dim / 2, scaling);
    divisors.map(Some).ok_or_else(|| {
        let problem = "GGUF stores of `llama3` scaling its divisors alone; they say the rest for low_freq_factor 1 \
                       and high_freq_factor 4 only";
        WeightsError::unwritable(path, problem)
    })
}

fn entries(
    path: &Path,
    divisors: Option<usize>,
    tensors: &[PlannedTensor],
) -> Result<Vec<Entry>, WeightsError> {
    let divisors = divisors.map(|pairs| Entry {
        name: ROPE_DIVISORS.to_owned(),
        shape: vec![pairs],
        kind: GgmlType::F32,
        bytes: 4 * pairs as u64,
    });
    let tensors = tensors.iter().map(|tensor| {
        let values =
            (tensor.shape.iter()).try_fold(1, |values: usize, axis| values.checked_mul(*axis));
        let bytes = values.and_then(|values| tensor.kind.bytes_of(values));
        match (names::to_gguf(&tensor.name), bytes) {
            (Some(name), Some(bytes)) => Ok(Entry {
                name,
                shape: tensor.shape.clone(),
                kind: tensor.kind,
                bytes: bytes as u64,
            }),
            _ => {
                let problem = format!("tensor `{}` has no place in it", tensor.name);
                Err(WeightsError::unwritable(path, problem))
            }
        }
    });
    divisors.into_iter().map(Ok).chain(tensors).collect()
}

/// All that precedes the data.
fn head(metadata: &[&Metadata], entries: &[Entry]) -> Vec<u8> {
    let parts: Vec<(u64, &[u8])> = metadata.iter().map(|part| part.encoded()).collect();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(
        parts
            .iter()
            .map(|(count, _)| count)
            .sum::<u64>()
            .to_le_bytes(),
    );
    parts.iter().for_each(|(_, part)| bytes.extend(*part));
    let mut offset = 0_u64;
    for entry in entries {
        put_text(&mut bytes, &entry.name);
        bytes.extend((entry.shape.len() as u32).to_le_bytes());
        for axis in entry.shape.iter().rev() {
            bytes.extend((*axis as u64).to_le_bytes());
        }
        bytes.extend(entry.kind.identifier().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += entry.bytes.next_multiple_of(ALIGNMENT.into());
    }
    bytes
}

/// Rows, or a bias's elements, in llama.cpp's order.
fn in_file_order(config: &DecoderConfig, planned: &PlannedTensor, values: Vec<f32>) -> Vec<f32> {
    if names::permuted_heads(config, &planned.name).is_none() {
        return values;
    }
    let row = match planned.shape[..] {
        [_, columns] => columns,
        _ => 1,
    };
    let mut permuted = vec![0.0; values.len()];
    for (from, values) in values.chunks(row).enumerate() {
        let to = names::gguf_row(from, config.head_dim);
        permuted[to * row..][..row].copy_from_slice(values);
    }
    permuted
}

/// Pads what is written to the alignment.
struct Aligned<'a> {
    file: &'a mut std::fs::File,
}

impl Aligned<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        self.file.write_all(&[0; ALIGNMENT as usize][..padding])
    }
}

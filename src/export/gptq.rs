//! A quantised model in GPTQ's layout, as Hugging Face's readers expect it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use model::weights::gptq_directory::write_gptq_files;
use model::weights::names::{expected_tensors, is_linear};
use model::weights::staged_directory::StagedDirectory;

use super::safetensors::write_tokenizer;
use super::{ExportSource, Weights};
use crate::recipe::FloatType;

pub(super) fn write(
    source: &ExportSource,
    out: &Path,
    dtype: FloatType,
) -> Result<StagedDirectory> {
    let hint = "hint: a stage `quantize` leaves integers; its methods gptq, awq and round_to_nearest leave what fits";
    let Weights::Stored(checkpoint) = &source.weights else {
        bail!("a random model has no integers to export\n{hint}");
    };
    let path = checkpoint.path().display();
    let Some(quantization) = checkpoint.quantization() else {
        bail!("{path} has no integers to export\n{hint}");
    };
    if checkpoint.adapter().is_some() {
        bail!("{path} has an adapter, which its integers do not know\n{hint}");
    }
    let config = source.config();
    let (linear, others): (Vec<_>, Vec<_>) = (expected_tensors(config).into_iter())
        .map(|(name, _)| name)
        .partition(|name| is_linear(name));
    let mut layers = BTreeMap::new();
    for name in linear {
        let module = name.strip_suffix(".weight").unwrap_or(&name);
        let Some(matrix) = quantization.integers(module)? else {
            bail!("{path}: layer `{module}` is not held in integers alone\n{hint}");
        };
        let values = checkpoint.tensor(&name)?.data;
        if let Some(at) = first_difference(&matrix.dequantize(), &values) {
            bail!(
                "{path}: value {at} of tensor `{name}` is not what its integers stand for: the weights were changed \
                 after they were quantised\nhint: quantise them again"
            );
        }
        layers.insert(module.to_owned(), matrix);
    }
    let staged = StagedDirectory::new(out)?;
    let others = others.iter().map(|name| source.tensor(name));
    write_gptq_files(&staged, config, dtype.into(), &layers, others)?;
    write_tokenizer(source, &staged)?;
    Ok(staged)
}

/// Where two matrices differ by more than a file of 16 bits rounds.
fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    let largest = b.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let is_far = |(a, b): (&f32, &f32)| (a - b).abs() > largest * 2.0_f32.powi(-8);
    a.iter().zip(b).position(is_far)
}

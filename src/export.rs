//! Writes models as other programs read them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use model::weights::checkpoint::{Checkpoint, TokenizerSource};
use model::weights::dtype::WeightDtype;
use model::weights::error::WeightsError;
use model::weights::hf_directory::{DEFAULT_MAX_SHARD_BYTES, write_hf_files};
use model::weights::names::expected_tensors;
use model::weights::staged_directory::StagedDirectory;
use teacher::tokenizer::load_tokenizer;

use crate::recipe::FloatType;

/// Files of a Hugging Face directory that make its tokenizer.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

impl From<FloatType> for WeightDtype {
    fn from(dtype: FloatType) -> Self {
        match dtype {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::Bf16 => Self::Bf16,
        }
    }
}

/// Writes a Hugging Face directory: configuration, weights (one tensor in memory at a time) and tokenizer files. It is
/// written aside and renamed: it appears whole or not at all.
///
/// # Errors
/// When `out` exists and is not an empty directory; when a weight does not fit `dtype`; when the disk is full.
pub fn write_safetensors(
    checkpoint: &Checkpoint,
    out: &Path,
    dtype: FloatType,
) -> anyhow::Result<()> {
    let staged = StagedDirectory::new(out)?;
    let tensors = expected_tensors(checkpoint.config())
        .into_iter()
        .map(|(name, _)| {
            let tensor = checkpoint.tensor(&name)?;
            Ok::<_, WeightsError>((name, tensor.shape, tensor.data))
        });
    let (config, dtype) = (checkpoint.config(), dtype.into());
    write_hf_files(&staged, config, dtype, DEFAULT_MAX_SHARD_BYTES, tensors)?;
    write_tokenizer(checkpoint, &staged)?;
    staged.commit()?;
    Ok(())
}

/// The files as they are where the model has them; made from a GGUF file's metadata otherwise.
pub fn write_tokenizer(checkpoint: &Checkpoint, staged: &StagedDirectory) -> anyhow::Result<()> {
    let directory = match checkpoint.tokenizer_source()? {
        TokenizerSource::Directory(directory) => directory,
        TokenizerSource::Gguf(_) => {
            return Ok(load_tokenizer(checkpoint)?.save(staged.path())?);
        }
    };
    if copy_files(&directory, staged)? == 0 {
        tracing::warn!(
            "{}: there is no tokenizer to export; the model can be fed token ids only",
            directory.display()
        );
    }
    Ok(())
}

fn copy_files(from: &Path, staged: &StagedDirectory) -> anyhow::Result<usize> {
    let mut copied = 0;
    for name in TOKENIZER_FILES {
        let path = from.join(name);
        if path.exists() {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            staged.write(name, &bytes)?;
            copied += 1;
        }
    }
    Ok(copied)
}

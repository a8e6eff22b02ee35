//! A Hugging Face directory: configuration, safetensors and tokenizer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use model::weights::checkpoint::TokenizerSource;
use model::weights::dtype::WeightDtype;
use model::weights::hf_directory::{DEFAULT_MAX_SHARD_BYTES, write_hf_files};
use model::weights::names::expected_tensors;
use model::weights::staged_directory::StagedDirectory;
use teacher::tokenizer::load_tokenizer;

use super::{ExportSource, Weights};
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

pub(super) fn write(
    source: &ExportSource,
    out: &Path,
    dtype: FloatType,
) -> Result<StagedDirectory> {
    let staged = StagedDirectory::new(out)?;
    let config = source.config();
    let tensors = expected_tensors(config)
        .into_iter()
        .map(|(name, _)| source.tensor(&name));
    let dtype = dtype.into();
    write_hf_files(&staged, config, dtype, DEFAULT_MAX_SHARD_BYTES, tensors)?;
    write_tokenizer(source, &staged)?;
    Ok(staged)
}

/// The files as they are where the model has them; made from what is at hand otherwise.
pub(super) fn write_tokenizer(source: &ExportSource, staged: &StagedDirectory) -> Result<()> {
    let checkpoint = match (&source.tokenizer, &source.weights) {
        (Some(tokenizer), _) => return Ok(tokenizer.save(staged.path())?),
        (None, Weights::Stored(checkpoint)) => checkpoint,
        (None, Weights::Made(_)) => return Ok(()),
    };
    let copied = match checkpoint.tokenizer_source()? {
        TokenizerSource::Gguf(_) => {
            return Ok(load_tokenizer(checkpoint)?.save(staged.path())?);
        }
        TokenizerSource::Directory(directory) => copy_files(&directory, staged)?,
        TokenizerSource::Absent => 0,
    };
    if copied == 0 {
        tracing::warn!(
            "{}: there is no tokenizer to export; the model can be fed token ids only",
            checkpoint.path().display()
        );
    }
    Ok(())
}

fn copy_files(from: &Path, staged: &StagedDirectory) -> Result<usize> {
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

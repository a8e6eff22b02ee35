//! A model's adapter alone, as PEFT reads it.

use std::path::Path;

use anyhow::{Result, bail};
use model::weights::staged_directory::StagedDirectory;

use super::safetensors::write_tokenizer;
use super::{ExportSource, Weights};
use crate::adapter::seen_from;
use crate::recipe::FloatType;

pub(super) fn write(
    source: &ExportSource,
    out: &Path,
    dtype: FloatType,
) -> Result<StagedDirectory> {
    let Weights::Stored(checkpoint) = &source.weights else {
        bail!("a random model has no adapter to export");
    };
    let Some(adapter) = checkpoint.adapter() else {
        bail!(
            "{} has no adapter to export\nhint: `safetensors` takes a whole model",
            checkpoint.path().display()
        );
    };
    let base = seen_from(out, checkpoint.path())?;
    let staged = StagedDirectory::new(out)?;
    let adapter = adapter.clone().with_base_path(base);
    adapter.write(&staged, dtype.into())?;
    write_tokenizer(source, &staged)?;
    Ok(staged)
}

//! From `--model` to an open checkpoint.

use std::path::Path;

use anyhow::bail;
use model::weights::checkpoint::Checkpoint;

use crate::source::{Cache, Source};

/// Fetches the model where that is not done yet, and opens it.
pub fn open(source: &Source) -> anyhow::Result<Checkpoint> {
    let path = source.resolve(&Cache::from_env()?)?;
    open_path(&path)
}

/// Opens a model on this machine.
pub fn open_path(path: &Path) -> anyhow::Result<Checkpoint> {
    if path.is_dir() && !path.join("config.json").exists() {
        bail!(
            "{}: this directory holds no model: it has no config.json\n\
             hint: give a Hugging Face directory (config.json and *.safetensors) or a .gguf file",
            path.display()
        );
    }
    Ok(Checkpoint::open(path)?)
}

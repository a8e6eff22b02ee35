//! From `--model` to an open checkpoint.

use std::path::Path;

use anyhow::bail;
use model::weights::checkpoint::Checkpoint;
use model::weights::peft::PeftAdapter;

use crate::adapter;
use crate::cli::ModelArgs;
use crate::source::{Cache, Source};

/// Fetches the model where that is not done yet, and opens it.
pub fn open(source: &Source) -> anyhow::Result<Checkpoint> {
    let path = source.resolve(&Cache::from_env()?)?;
    open_path(&path)
}

/// Fetches the model that a verb works on, and opens it with its adapter.
pub fn open_model(arguments: &ModelArgs) -> anyhow::Result<Checkpoint> {
    let path = arguments.stored()?.resolve(&Cache::from_env()?)?;
    open_model_at(&path, arguments)
}

/// The same for a model that is fetched already.
pub fn open_model_at(path: &Path, arguments: &ModelArgs) -> anyhow::Result<Checkpoint> {
    let checkpoint = open_path(path)?;
    match &arguments.adapter {
        Some(directory) => Ok(checkpoint.with_adapter(PeftAdapter::open(directory)?)?),
        None => Ok(checkpoint),
    }
}

/// Opens a model on this machine.
pub fn open_path(path: &Path) -> anyhow::Result<Checkpoint> {
    if path.is_dir() && !path.join("config.json").exists() && !PeftAdapter::is_at(path) {
        bail!(
            "{}: this directory holds no model: it has no config.json\n\
             hint: give a Hugging Face directory (config.json and *.safetensors) or a .gguf file",
            path.display()
        );
    }
    adapter::open(path)
}

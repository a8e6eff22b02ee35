//! From `--model` to an open checkpoint.

use std::path::Path;

use anyhow::bail;
use datasets::tokenizer::Tokenizer;
use model::weights::checkpoint::Checkpoint;
use model::weights::peft::PeftAdapter;
use teacher::TeacherError;
use teacher::tokenizer::load_tokenizer;

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
    let checkpoint = open(&arguments.model)?;
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

/// The tokenizer, or none for a model without one, which can still be fed token ids.
pub fn optional_tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, TeacherError> {
    match load_tokenizer(checkpoint) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(TeacherError::NoTokenizer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

//! From `--model` to an open checkpoint.

use std::path::Path;

use anyhow::{Context, bail};
use model::build::Placement;
use model::load::load_frozen_decoder;
use model::weights::checkpoint::Checkpoint;
use model::weights::peft::PeftAdapter;
use teacher::LocalTeacher;
use teacher::tokenizer::load_tokenizer;

use crate::adapter;
use crate::cli::{DraftArgs, ModelArgs};
use crate::source::{Cache, ModelSource, Source};

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

/// Fetches the model that drafts, if there is one, and opens it.
pub fn open_draft(
    arguments: &DraftArgs,
    placement: &Placement,
) -> anyhow::Result<Option<LocalTeacher>> {
    match &arguments.draft {
        None => Ok(None),
        Some(ModelSource::Stored(source)) => {
            let checkpoint = open(source).context("the draft")?;
            let tokenizer = load_tokenizer(&checkpoint)?;
            let decoder = load_frozen_decoder(&checkpoint, placement)?;
            Ok(Some(LocalTeacher::new(decoder, tokenizer)?))
        }
        Some(_) => bail!("--draft needs the weights of a model, and a remote one keeps them"),
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

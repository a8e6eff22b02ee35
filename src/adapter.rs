//! Models with adapters: a base and what was trained beside it, opened as one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use datasets::tokenizer::Tokenizer;
use model::decoder::Decoder;
use model::linear::lora::LoraConfig;
use model::weights::checkpoint::Checkpoint;
use model::weights::dtype::WeightDtype;
use model::weights::peft::{AdapterBase, PeftAdapter};
use model::weights::staged_directory::StagedDirectory;

/// Opens a model on this machine: a checkpoint, or an adapter with the base that it names.
///
/// # Errors
/// What is wrong with either, or that they do not belong together.
pub fn open(path: &Path) -> Result<Checkpoint> {
    if !PeftAdapter::is_at(path) || path.join("config.json").exists() {
        return Ok(Checkpoint::open(path)?);
    }
    let adapter = PeftAdapter::open(path)?;
    let hint = "hint: name its base as the model and this directory as its adapter";
    let Some(base) = adapter.base() else {
        bail!(
            "{}: this is an adapter that does not say where its base is\n{hint}",
            path.display()
        );
    };
    let base = base.path_from(path);
    if !base.exists() {
        bail!(
            "{}: the base of this adapter, {}, is not there\n{hint}",
            path.display(),
            base.display()
        );
    }
    Ok(Checkpoint::open(&base)?.with_adapter(adapter)?)
}

/// Opens a model, with an adapter if one is given.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: &Path, adapter: Option<&Path>) -> Result<Checkpoint> {
    let checkpoint = open(path)?;
    match adapter {
        Some(directory) => Ok(checkpoint.with_adapter(PeftAdapter::open(directory)?)?),
        None => Ok(checkpoint),
    }
}

/// Writes what was trained beside `base` as a directory that PEFT reads, whole or not at all.
pub fn save(
    target: &Path,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    config: &LoraConfig,
    base: &Checkpoint,
) -> Result<()> {
    let base = AdapterBase {
        path: seen_from(target, base.path())?,
        digest: base.digest(),
        form: config.base,
    };
    let staged = StagedDirectory::new(target)?;
    PeftAdapter::of(decoder, config, base).write(&staged, WeightDtype::F32)?;
    tokenizer.save(staged.path())?;
    Ok(staged.commit()?)
}

/// The path of the base as the adapter in `target` names it: absolute, but for stages of one run, which move together.
pub fn seen_from(target: &Path, base: &Path) -> Result<PathBuf> {
    let [target, base] = [std::path::absolute(target)?, std::path::absolute(base)?];
    let run = target.parent().and_then(Path::parent);
    let inside = run.and_then(|run| base.strip_prefix(run).ok());
    Ok(match inside.filter(|_| target.ends_with("model")) {
        Some(inside) => Path::new("../..").join(inside),
        None => base,
    })
}

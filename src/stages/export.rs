//! Stage `export`: a model where the user wants it, in the format that others read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::linear::lora::BaseForm;

use super::Chain;
use super::models::write_model;
use crate::adapter;
use crate::plan::PlannedStage;
use crate::recipe::{Export, ExportFormat};

impl Chain<'_> {
    pub fn export(&self, stage: &PlannedStage, config: &Export) -> Result<()> {
        let stored = self.stored(stage, "model")?;
        let stored = stored.as_ref().map(|stored| &stored.checkpoint);
        if config.to == ExportFormat::Peft {
            let checkpoint = stored.context("a random model has no adapter to export")?;
            return self.place_export(stage, config, &|target| {
                adapter::export(checkpoint, target, config.dtype.into())
            });
        }
        if stored.is_some_and(|stored| stored.base_form() == BaseForm::Nf4) {
            tracing::info!("the adapter is merged into the values of its NF4 base");
        }
        let opened = self.open_model(stage, "model")?;
        self.place_export(stage, config, &|target| {
            write_model(
                target,
                &opened.decoder,
                &opened.tokenizer,
                config.dtype.into(),
            )
        })
    }

    /// Lets `write` write where the stage wants its result.
    fn place_export(
        &self,
        stage: &PlannedStage,
        config: &Export,
        write: &dyn Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        let own = stage.directory.join("model");
        if own.exists() {
            fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
        }
        let Some(target) = &config.path else {
            return write(&own);
        };
        if !target.exists() {
            return write(target);
        }
        // A run that was killed right after this very export has left it there; whatever else stands
        // there is not ours to replace.
        write(&own)?;
        let is_whole = same_files(&own, target)
            .with_context(|| format!("cannot read {}", target.display()))?;
        fs::remove_dir_all(&own)?;
        if is_whole { Ok(()) } else { write(target) }
    }
}

/// Whether two directories hold the same files.
fn same_files(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (list(a)?, list(b)?);
    if !a.keys().eq(b.keys()) {
        return Ok(false);
    }
    for (a, b) in a.values().zip(b.values()) {
        if !same_bytes(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(directory: &Path) -> io::Result<BTreeMap<OsString, PathBuf>> {
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| entry.map(|entry| (entry.file_name(), entry.path())))
        .collect()
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    if !b.metadata()?.is_file() || a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    let mut blocks = [vec![0; 1 << 16], vec![0; 1 << 16]];
    loop {
        let [left, right] = &mut blocks;
        let length = a.read(left)?;
        if length == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}

/// Where the stage writes to.
pub fn export_target(stage: &PlannedStage, config: &Export) -> PathBuf {
    config
        .path
        .clone()
        .unwrap_or_else(|| stage.directory.join("model"))
}

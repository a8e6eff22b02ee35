//! Stage `export`: a model where the user wants it, in the format that others read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Chain;
use super::models::write_model;
use crate::plan::PlannedStage;
use crate::recipe::{Export, ExportFormat};

impl Chain<'_> {
    pub fn export(&self, stage: &PlannedStage, config: &Export) -> Result<()> {
        let opened = self.open_model(stage, "model")?;
        let ExportFormat::Safetensors = config.to;
        let write = |target: &Path| {
            write_model(
                target,
                &opened.decoder,
                &opened.tokenizer,
                config.dtype.into(),
            )
        };
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

//! Stage `export`: a model where the user wants it, in the format that others read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Chain, write_json};
use crate::export::{ExportSource, VerifyText, verify};
use crate::plan::PlannedStage;
use crate::recipe::{Export, Verify};

impl Chain<'_> {
    pub fn export(&self, stage: &PlannedStage, config: &Export) -> Result<()> {
        let source = self.open_to_export(stage, "model")?;
        let own = stage.directory.join(config.own_name());
        remove(&own)?;
        let Some(target) = &config.inputs.path else {
            return self.write_export(stage, config, &source, &own);
        };
        if target.exists() {
            // A run that was killed right after this very export has left it there; whatever else stands
            // there is not ours to replace.
            source
                .write(&config.inputs.model, &config.format, &own)?
                .commit()?;
            let is_whole = same_files(&own, target)
                .with_context(|| format!("cannot read {}", target.display()))?;
            remove(&own)?;
            if is_whole {
                return Ok(());
            }
        }
        self.write_export(stage, config, &source, target)
    }

    /// Writes, verifies where that is asked for, and only then puts the result in its place.
    fn write_export(
        &self,
        stage: &PlannedStage,
        config: &Export,
        source: &ExportSource,
        target: &Path,
    ) -> Result<()> {
        let Export { inputs, format } = config;
        let written = source.write(&inputs.model, format, target)?;
        if let Some(Verify { data, max_kl }) = &inputs.verify {
            let text = match data {
                Some(_) => VerifyText::Samples(self.samples(stage, "verify.data")?),
                None => VerifyText::BuiltIn,
            };
            let found = verify(
                source,
                written.path(),
                format,
                &text,
                *max_kl,
                &self.placement,
            )?;
            write_json(
                &stage.directory.join("verify.json"),
                &serde_json::to_value(found)?,
            )?;
        }
        written.commit()
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Whether two directories hold the same files, or two files the same bytes.
fn same_files(a: &Path, b: &Path) -> io::Result<bool> {
    if !a.is_dir() {
        return same_bytes(a, b);
    }
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
    let own = || stage.directory.join(config.own_name());
    config.inputs.path.clone().unwrap_or_else(own)
}

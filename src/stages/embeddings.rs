//! Vectors of all records of a data set, kept in the cache: files of so many records, each whole or not there.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use datasets::config::DataConfig;
use datasets::read::data_digest;
use datasets::scan::{Parsed, scan};
use model::phase;
use serde_json::json;
use teacher::embedding::mean_pooled;

use super::{Chain, write_whole};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::CodeQuality;
use crate::source::Sha256;

/// Of what the files hold.
const FORMAT: u32 = 1;
/// Records of a file.
const RECORDS: usize = 256;

/// A row for each record that says something, in the order of the data; f32, little-endian, row-major.
pub struct Embeddings {
    directory: PathBuf,
    columns: usize,
    rows: usize,
}

impl Chain<'_> {
    /// Vectors of the `rows` records that say something; those that are missing are computed. None when it was stopped
    /// from outside.
    pub fn embeddings(
        &self,
        stage: &PlannedStage,
        config: &CodeQuality,
        data: &DataConfig<PathBuf>,
        rows: usize,
        progress: &mut Progress,
    ) -> Result<Option<Embeddings>> {
        let _phase = phase!("embed");
        let described = json!({
            "format": FORMAT,
            // Of its contents: what the maker of the data was told does not decide what it has made.
            "data": data_digest(data)?,
            "field": config.field,
            "embedder": self.digest_of_input(stage, "embedder")?,
            "max_tokens": config.max_tokens,
        });
        let digest = Sha256::of(described.to_string().as_bytes());
        let directory = self.cache.root().join("embeddings").join(digest.short());
        if let Some(whole) = Embeddings::open(&directory, rows) {
            return Ok(Some(whole));
        }
        let opened = self.open_model(stage, "embedder")?;
        let decoder = &opened.decoder;
        let context = decoder.config.max_position_embeddings;
        if config.max_tokens > context {
            bail!(
                "`max_tokens` is {}, and the embedder sees {context} tokens",
                config.max_tokens
            );
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot write in {}", directory.display()))?;
        let embeddings = Embeddings {
            directory,
            columns: decoder.config.hidden_size,
            rows,
        };
        let bar = progress.embedding(rows);
        let stopped = || self.stop.load(Ordering::Relaxed);
        let ids_of = |parsed: &Parsed| {
            let text = parsed.text(config.field.as_deref())?;
            let Some(text) = text.filter(|_| !stopped()) else {
                return Ok(None);
            };
            let mut ids = opened.tokenizer.encode(&text, true)?;
            ids.truncate(config.max_tokens);
            Ok(Some(ids))
        };
        let write = |number: usize, sequences: &[Vec<u32>]| -> Result<()> {
            if embeddings.is_there(number) {
                bar.inc(sequences.len() as u64);
                return Ok(());
            }
            let mut go_on = |done: usize| {
                bar.inc(done as u64);
                match stopped() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            // Where it is stopped, texts may not have been read: such a file is not written.
            let values = mean_pooled(decoder, sequences, &mut go_on).filter(|_| !stopped());
            let Some(values) = values else {
                return Ok(());
            };
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let file = embeddings.file(number);
            write_whole(&file, &bytes).with_context(|| format!("cannot write {}", file.display()))
        };
        let (mut waiting, mut number, mut result) = (Vec::with_capacity(RECORDS), 0, Ok(()));
        scan(data, ids_of, |_, found| {
            if let Ok(Some(ids)) = found {
                waiting.push(ids);
            }
            if waiting.len() == RECORDS {
                if result.is_ok() && !stopped() {
                    result = write(number, &waiting);
                }
                waiting.clear();
                number += 1;
            }
            Ok(())
        })?;
        result?;
        if !stopped() && !waiting.is_empty() {
            write(number, &waiting)?;
        }
        bar.finish_and_clear();
        Ok((!stopped()).then_some(embeddings))
    }
}

impl Embeddings {
    /// None where something is missing.
    fn open(directory: &Path, rows: usize) -> Option<Self> {
        let of_first = rows.min(RECORDS) as u64 * 4;
        let first = fs::metadata(file_in(directory, 0)).ok()?.len();
        let found = Self {
            directory: directory.to_path_buf(),
            columns: (first / of_first.max(1)) as usize,
            rows,
        };
        let whole = (0..found.files()).all(|number| found.is_there(number));
        whole.then_some(found)
    }

    pub fn files(&self) -> usize {
        self.rows.div_ceil(RECORDS)
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    fn file(&self, number: usize) -> PathBuf {
        file_in(&self.directory, number)
    }

    fn is_there(&self, number: usize) -> bool {
        let rows = self.rows.saturating_sub(number * RECORDS).min(RECORDS);
        let bytes = (rows * self.columns * 4) as u64;
        fs::metadata(self.file(number)).is_ok_and(|metadata| metadata.len() == bytes)
    }

    /// The rows of one file, row-major.
    pub fn read(&self, number: usize) -> Result<Vec<f32>> {
        let file = self.file(number);
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (values, _) = bytes.as_chunks::<4>();
        Ok(values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect())
    }

    /// Some of the rows; `wanted` rises.
    pub fn rows(&self, wanted: &[usize]) -> Result<Vec<f32>> {
        let mut found = Vec::with_capacity(wanted.len() * self.columns);
        for of_file in wanted.chunk_by(|a, b| a / RECORDS == b / RECORDS) {
            let values = self.read(of_file[0] / RECORDS)?;
            for row in of_file {
                let first = row % RECORDS * self.columns;
                let row = values.get(first..first + self.columns);
                found.extend_from_slice(row.context("a file of embeddings is too short")?);
            }
        }
        Ok(found)
    }
}

fn file_in(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{number:06}.f32"))
}

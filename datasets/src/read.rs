//! Reads data files into samples.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use polars::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::chunks::read_chunks;
use crate::config::{Chunk, DataConfig, Format};
use crate::error::DataError;
use crate::files::{is_packed, list_files};
use crate::guard::without_panics;
pub use crate::layout::DropReason;
use crate::layout::Layout;
use crate::sample::Sample;

/// What was read, and what was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReadReport {
    pub samples: Vec<Sample>,
    /// Rows (or chunks of text) that were looked at.
    pub rows: usize,
    /// Rows that gave no sample, by reason.
    pub dropped: BTreeMap<DropReason, usize>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Files of a directory that were passed over because they hold no data of the chosen format.
    pub skipped_files: Vec<PathBuf>,
}

/// Reads all samples of a data set, in file and row order.
///
/// Fails when a file cannot be read, when its layout is not recognised, and when no sample is left.
pub fn read_samples(config: &DataConfig<PathBuf>) -> Result<ReadReport, DataError> {
    read(config, false)
}

/// As [`read_samples`], with the conversations that nobody has answered yet: those without an assistant turn.
pub fn read_prompts(config: &DataConfig<PathBuf>) -> Result<ReadReport, DataError> {
    read(config, true)
}

fn read(config: &DataConfig<PathBuf>, unanswered: bool) -> Result<ReadReport, DataError> {
    let (files, skipped_files) = list_files(&config.source, config.format)?;
    let mut report = ReadReport {
        skipped_files,
        ..ReadReport::default()
    };
    let limit = config.limit.unwrap_or(usize::MAX);
    let mut is_text = true;
    for (path, format) in files {
        if report.samples.len() >= limit {
            break;
        }
        match format {
            Format::Text => read_text(&path, config.chunk, limit, &mut report)?,
            _ => {
                is_text = false;
                let unpacked = unpack(&path)?;
                let table = unpacked.as_ref().map_or(path.as_path(), |file| file.path());
                read_table(table, format, config, (limit, unanswered), &mut report)?;
            }
        }
        report.files.push(path);
    }
    if report.samples.is_empty() {
        return Err(DataError::Empty {
            path: config.source.clone(),
            found: nothing_left(&report, is_text),
        });
    }
    Ok(report)
}

/// Why no sample is left, and what to look at.
fn nothing_left(report: &ReadReport, is_text: bool) -> String {
    let files = report.files.len();
    if is_text && files > 0 {
        let what = match files {
            1 => "the file is empty or holds only white space".to_string(),
            _ => format!("all {files} text files are empty or hold only white space"),
        };
        return format!("{what}\nhint: check that `source` names the data that you meant");
    }
    if report.rows == 0 {
        return "the data holds no rows\n\
                hint: check that `source` names the data that you meant, and that `limit` is not 0"
            .into();
    }
    let reasons: Vec<String> = (report.dropped.iter())
        .map(|(reason, rows)| format!("{rows} with {}", reason.describe()))
        .collect();
    format!(
        "none of {} rows can be used: {}\n\
         hint: check that `source` names the data that you meant and that `columns` names its columns",
        report.rows,
        reasons.join(", ")
    )
}

/// The SHA-256 (hexadecimal) of all that decides which samples are read: the files' contents, the layout and the limit.
pub fn data_digest(config: &DataConfig<PathBuf>) -> Result<String, DataError> {
    let mut hash = Sha256::new();
    let described = config.with_source(());
    hash.update(serde_json::to_vec(&described).unwrap_or_default());
    let mut buffer = vec![0u8; 1 << 20];
    for (path, format) in list_files(&config.source, config.format)?.0 {
        let mut file = fs::File::open(&path).map_err(DataError::io("open", &path))?;
        let mut length = 0u64;
        loop {
            let read = file
                .read(&mut buffer)
                .map_err(DataError::io("read", &path))?;
            if read == 0 {
                break;
            }
            length += read as u64;
            hash.update(&buffer[..read]);
        }
        hash.update(length.to_le_bytes());
        hash.update(format!("{format:?}"));
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn read_text(
    path: &Path,
    chunk: Chunk,
    limit: usize,
    report: &mut ReadReport,
) -> Result<(), DataError> {
    read_chunks(path, chunk, &mut |piece| {
        report.rows += 1;
        if piece.trim().is_empty() {
            *report.dropped.entry(DropReason::EmptyText).or_default() += 1;
        } else {
            report.samples.push(Sample::Text(piece.to_string()));
        }
        Ok(match report.samples.len() < limit {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })
    .map(|_| ())
}

/// A packed file's contents as a file of their own.
fn unpack(path: &Path) -> Result<Option<NamedTempFile>, DataError> {
    if !is_packed(path) {
        return Ok(None);
    }
    let packed = fs::File::open(path).map_err(DataError::io("open", path))?;
    let unpacked = || -> std::io::Result<NamedTempFile> {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile()?;
        std::io::copy(&mut MultiGzDecoder::new(packed), &mut file)?;
        Ok(file)
    };
    unpacked().map(Some).map_err(DataError::io("unpack", path))
}

fn read_table(
    path: &Path,
    format: Format,
    config: &DataConfig<PathBuf>,
    (limit, unanswered): (usize, bool),
    report: &mut ReadReport,
) -> Result<(), DataError> {
    let malformed = |found: String| DataError::Malformed {
        path: path.to_path_buf(),
        expected: match format {
            Format::Jsonl => "JSON lines",
            Format::Json => "a JSON array of objects",
            Format::Csv => "csv",
            _ => "parquet",
        },
        found,
    };
    if fs::metadata(path)
        .map_err(DataError::io("open", path))?
        .len()
        == 0
    {
        return Ok(());
    }
    let failed = |message: &str| malformed(explain(path, format, message));
    let (schema, lazy) = without_panics(|| -> PolarsResult<(SchemaRef, LazyFrame)> {
        let mut lazy = scan(path, format)?;
        Ok((lazy.collect_schema()?, lazy))
    })
    .map_err(|message| failed(&message))?
    .map_err(|error| failed(&error.to_string()))?;
    let layout = Layout::detect(path, &schema, config.columns.as_ref())?;
    let columns: Vec<Expr> = layout.columns().into_iter().map(col).collect();
    let lazy = lazy.select(columns);
    let mut first_row = 0;
    // Rows that give no sample do not count towards the limit, so that more rows than the limit may be needed.
    let mut wanted = limit - report.samples.len();
    while report.samples.len() < limit {
        let rows = IdxSize::try_from(wanted).unwrap_or(IdxSize::MAX);
        let table = without_panics(|| lazy.clone().slice(first_row as i64, rows).collect())
            .map_err(|message| failed(&message))?
            .map_err(|error| failed(&error.to_string()))?;
        for row in 0..table.height() {
            if report.samples.len() == limit {
                break;
            }
            report.rows += 1;
            match layout.sample(path, &table, row, first_row)? {
                Ok(sample) if !unanswered && nothing_to_learn(&sample) => {
                    *(report.dropped.entry(DropReason::NoAssistantTurn)).or_default() += 1;
                }
                Ok(sample) => report.samples.push(sample),
                Err(reason) => *report.dropped.entry(reason).or_default() += 1,
            }
        }
        first_row += table.height();
        if table.height() < rows as usize {
            break;
        }
        wanted = wanted.saturating_mul(2).max(1024);
    }
    Ok(())
}

fn nothing_to_learn(sample: &Sample) -> bool {
    match sample {
        Sample::Conversation(turns) => !turns.iter().any(|turn| turn.role == "assistant"),
        Sample::Text(_) | Sample::Completion { .. } => false,
    }
}

fn scan(path: &Path, format: Format) -> PolarsResult<LazyFrame> {
    let Some(name) = path.to_str() else {
        polars_bail!(ComputeError: "its path is not UTF-8");
    };
    let location = PlRefPath::new(name);
    match format {
        // Types come from the whole file: a field that is missing from the first rows must not be lost.
        Format::Jsonl => LazyJsonLineReader::new(location)
            .with_infer_schema_length(None)
            .finish(),
        Format::Csv => LazyCsvReader::new(location)
            .with_glob(false)
            // Every column stays text: a completion "42" is no number.
            .with_infer_schema_length(Some(0))
            .finish(),
        Format::Json => {
            let file = fs::File::open(path)?;
            let table = JsonReader::new(std::io::BufReader::new(file))
                .with_json_format(JsonFormat::Json)
                .infer_schema_len(None::<NonZeroUsize>)
                .finish()?;
            Ok(table.lazy())
        }
        _ => LazyFrame::scan_parquet(
            location,
            ScanArgsParquet {
                glob: false,
                ..ScanArgsParquet::default()
            },
        ),
    }
}

/// For JSON lines, names the first line that is no JSON object, which the reader's own message does not.
fn explain(path: &Path, format: Format, message: &str) -> String {
    if format == Format::Jsonl
        && let Ok(text) = fs::read_to_string(path)
    {
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str::<serde_json::Value>(line) {
                Ok(serde_json::Value::Object(_)) => {}
                Ok(_) => return format!("line {}: not an object", number + 1),
                Err(error) => return format!("line {}: {error}", number + 1),
            }
        }
    }
    message.to_string()
}

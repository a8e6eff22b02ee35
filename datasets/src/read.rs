//! Reads data files into samples.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::chunks::{Step, go_on, read_chunks};
use crate::config::{Chunk, ColumnMapping, DataConfig, Format};
use crate::error::DataError;
use crate::files::list_files;
pub use crate::layout::DropReason;
use crate::layout::{Layout, Row};
use crate::records::{RECORDS_OF_A_BATCH, columns_of, read_table_batches};
use crate::sample::Sample;
use crate::texts::fields;

/// Samples are handed over when they have so much text; results do not depend on it.
const HANDED_OVER_BYTES: usize = 16 << 20;

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

/// Takes samples that were read, some at a time.
pub type TakeSamples<'a> = &'a mut dyn FnMut(Vec<Sample>) -> Result<(), DataError>;

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
    let mut samples = Vec::new();
    let report = hand_over(config, unanswered, &mut |some| {
        samples.extend(some);
        Ok(())
    })?;
    Ok(ReadReport { samples, ..report })
}

/// As [`read_samples`], but hands the samples to `take`: memory holds some of them, not the data. The report has none.
pub fn read_in_batches(
    config: &DataConfig<PathBuf>,
    take: TakeSamples,
) -> Result<ReadReport, DataError> {
    hand_over(config, false, take)
}

fn hand_over(
    config: &DataConfig<PathBuf>,
    unanswered: bool,
    take: TakeSamples,
) -> Result<ReadReport, DataError> {
    let (files, skipped_files) = list_files(&config.source, config.format)?;
    let is_text = files.iter().all(|(_, format)| !format.is_table());
    let mut reader = Reader {
        report: ReadReport {
            skipped_files,
            ..ReadReport::default()
        },
        wanted: config.limit.unwrap_or(usize::MAX),
        none: true,
        unanswered,
        pending: Vec::new(),
        pending_bytes: 0,
        take,
    };
    for (path, format) in files {
        if reader.wanted == 0 {
            break;
        }
        match format {
            Format::Text => reader.text(&path, config.chunk)?,
            _ => reader.table(&path, format, config.columns.as_ref())?,
        }
        reader.report.files.push(path);
    }
    reader.flush()?;
    if reader.none {
        return Err(DataError::Empty {
            path: config.source.clone(),
            found: nothing_left(&reader.report, is_text),
        });
    }
    Ok(reader.report)
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

/// Reads file after file.
struct Reader<'a> {
    report: ReadReport,
    /// Samples that the limit leaves.
    wanted: usize,
    /// Whether there was no sample yet.
    none: bool,
    unanswered: bool,
    /// Not handed over yet: samples of several small files go together.
    pending: Vec<Sample>,
    pending_bytes: usize,
    take: TakeSamples<'a>,
}

impl Reader<'_> {
    fn flush(&mut self) -> Result<(), DataError> {
        self.pending_bytes = 0;
        match std::mem::take(&mut self.pending) {
            none if none.is_empty() => Ok(()),
            samples => (self.take)(samples),
        }
    }

    fn text(&mut self, path: &Path, chunk: Chunk) -> Result<(), DataError> {
        read_chunks(path, chunk, &mut |piece| {
            self.judged(match piece.trim().is_empty() {
                true => Err(DropReason::EmptyText),
                false => Ok(Sample::Text(piece.to_string())),
            })
        })
        .map(|_| ())
    }

    fn table(
        &mut self,
        path: &Path,
        format: Format,
        mapping: Option<&ColumnMapping>,
    ) -> Result<(), DataError> {
        if fs::metadata(path)
            .map_err(DataError::io("open", path))?
            .len()
            == 0
        {
            return Ok(());
        }
        // A column that is missing from the first rows must not be lost.
        let is_certain = |columns: &[String]| Layout::is_certain(columns, mapping);
        let columns = columns_of(path, format, &is_certain)?;
        if columns.is_empty() {
            return Ok(());
        }
        let layout = Layout::detect(path, &columns, mapping)?;
        read_table_batches(path, format, Some(&layout.columns()), &mut |batch| {
            let samples = batch.par_iter().map(|record| {
                let fields = fields(record)?;
                layout.sample(&Row { record, fields })
            });
            let samples = samples.collect::<Vec<Result<_, DataError>>>();
            // Errors behind the limit are nobody's.
            for sample in samples {
                if self.judged(sample?)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })
        .map(|_| ())
    }

    /// Counts a row, and hands its sample over with others.
    fn judged(&mut self, row: Result<Sample, DropReason>) -> Step {
        self.report.rows += 1;
        match row {
            Ok(sample) if self.unanswered || !nothing_to_learn(&sample) => {
                self.wanted -= 1;
                self.none = false;
                self.pending_bytes += sample.bytes();
                self.pending.push(sample);
                if self.pending.len() >= RECORDS_OF_A_BATCH
                    || self.pending_bytes >= HANDED_OVER_BYTES
                {
                    self.flush()?;
                }
            }
            Ok(_) => self.dropped(DropReason::NoAssistantTurn),
            Err(reason) => self.dropped(reason),
        }
        Ok(go_on(self.wanted > 0))
    }

    fn dropped(&mut self, reason: DropReason) {
        *self.report.dropped.entry(reason).or_default() += 1;
    }
}

fn nothing_to_learn(sample: &Sample) -> bool {
    match sample {
        Sample::Conversation(turns) => !turns.iter().any(|turn| turn.role == "assistant"),
        Sample::Text(_) | Sample::Completion { .. } => false,
    }
}

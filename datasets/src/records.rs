//! Reads data files as a stream of records: memory holds one batch, not the data.

use std::collections::HashSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::chunks::{BYTE_ORDER_MARK, Step, read_chunks, read_lines};
use crate::config::{DataConfig, Format};
use crate::error::DataError;
use crate::files::list_files;
use crate::texts::fields;

mod csv;
mod parquet;

pub use csv::csv_rows;

/// A batch ends with the record that reaches one of these; results do not depend on them.
pub(crate) const RECORDS_OF_A_BATCH: usize = 4096;
const BYTES_OF_A_BATCH: usize = 4 << 20;

/// One row of the data as JSON on one line, with all its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// From 1, over all files of the data.
    pub number: u64,
    pub path: Arc<Path>,
    /// From 1, in its file: the line of JSON lines, the row of a table, the piece of a text.
    pub row: usize,
    /// What is counted in the file: lines, elements, rows or pieces.
    pub unit: &'static str,
    pub line: String,
}

impl Record {
    /// A value of this record that is no `expected`; a long one is shown by its beginning.
    pub fn unexpected(&self, column: &str, value: &Value, expected: &str) -> DataError {
        let mut found = value.to_string();
        if let Some((cut, _)) = found.char_indices().nth(60) {
            found.truncate(cut);
            found.push('…');
        }
        DataError::Row {
            path: self.path.to_path_buf(),
            row: self.row,
            column: column.to_string(),
            found,
            expected: expected.into(),
        }
    }
}

/// Takes a batch; [`ControlFlow::Break`] when no more are wanted.
type Take<'a> = &'a mut dyn FnMut(Vec<Record>) -> Step;

/// Hands all records of a data set to `take`, batch by batch, in file and row order. `limit` is not heeded here.
pub fn read_batches(config: &DataConfig<PathBuf>, take: Take) -> Result<(), DataError> {
    let mut batch = Batch::new(take);
    for (path, format) in list_files(&config.source, config.format)?.0 {
        let path: Arc<Path> = path.into();
        let flow = match format {
            Format::Text => read_text(&path, config, &mut batch),
            table => read_table(&path, table, None, &mut batch),
        }?;
        if flow.is_break() {
            return Ok(());
        }
    }
    batch.flush().map(|_| ())
}

/// Hands the records of one table to `take`; of parquet only these columns, of other formats all.
pub(crate) fn read_table_batches(
    path: &Path,
    format: Format,
    columns: Option<&[String]>,
    take: Take,
) -> Step {
    let mut batch = Batch::new(take);
    match read_table(&path.into(), format, columns, &mut batch)? {
        ControlFlow::Continue(()) => batch.flush(),
        ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
    }
}

fn read_table(
    path: &Arc<Path>,
    format: Format,
    columns: Option<&[String]>,
    batch: &mut Batch,
) -> Step {
    batch.unit = match format {
        Format::Json => "element",
        Format::Csv | Format::Parquet => "row",
        Format::Jsonl | Format::Text => "line",
    };
    match format {
        Format::Json => read_array(path, batch),
        Format::Csv => csv::read(path, batch),
        Format::Parquet => parquet::read(path, columns, batch),
        Format::Jsonl | Format::Text => {
            read_lines(path, "JSON lines", &mut |row, line| match line.trim() {
                "" => Ok(ControlFlow::Continue(())),
                line => batch.push(path, row, line.to_string()),
            })
        }
    }
}

/// The columns of a table in their order; of JSON those of all records up to one that leaves nothing open.
pub(crate) fn columns_of(
    path: &Path,
    format: Format,
    is_enough: &dyn Fn(&[String]) -> bool,
) -> Result<Vec<String>, DataError> {
    match format {
        Format::Parquet => parquet::columns(path),
        Format::Csv => csv::columns(path),
        _ => {
            let mut columns: Vec<String> = Vec::new();
            let mut known = HashSet::new();
            let _ends_early = read_table_batches(path, format, None, &mut |batch| {
                let records: Vec<_> = batch.par_iter().map(fields).collect();
                for record in records {
                    let before = columns.len();
                    for (name, _) in record? {
                        if !known.contains(&name) {
                            known.insert(name.clone());
                            columns.push(name);
                        }
                    }
                    if columns.len() > before && is_enough(&columns) {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(columns)
        }
    }
}

struct Batch<'a> {
    records: Vec<Record>,
    bytes: usize,
    number: u64,
    unit: &'static str,
    take: Take<'a>,
}

impl<'a> Batch<'a> {
    fn new(take: Take<'a>) -> Self {
        Self {
            records: Vec::new(),
            bytes: 0,
            number: 0,
            unit: "line",
            take,
        }
    }

    fn push(&mut self, path: &Arc<Path>, row: usize, line: String) -> Step {
        self.number += 1;
        self.bytes += line.len();
        self.records.push(Record {
            number: self.number,
            path: path.clone(),
            row,
            unit: self.unit,
            line,
        });
        match self.records.len() >= RECORDS_OF_A_BATCH || self.bytes >= BYTES_OF_A_BATCH {
            true => self.flush(),
            false => Ok(ControlFlow::Continue(())),
        }
    }

    fn flush(&mut self) -> Step {
        self.bytes = 0;
        match std::mem::take(&mut self.records) {
            none if none.is_empty() => Ok(ControlFlow::Continue(())),
            records => (self.take)(records),
        }
    }
}

fn malformed(path: &Path, expected: &'static str, found: impl ToString) -> DataError {
    DataError::Malformed {
        path: path.to_path_buf(),
        expected,
        found: found.to_string(),
    }
}

/// Pieces of text under the name that the data's columns give it.
fn read_text(path: &Arc<Path>, config: &DataConfig<PathBuf>, batch: &mut Batch) -> Step {
    let named = config
        .columns
        .as_ref()
        .and_then(|columns| columns.text.clone());
    let name = named.unwrap_or_else(|| "text".into());
    let mut row = 0;
    batch.unit = "piece";
    read_chunks(path, config.chunk, &mut |text| {
        row += 1;
        batch.push(path, row, json!({ &name: text }).to_string())
    })
}

/// The elements of a JSON array as they are written, or the one object of the file, from the mapped file.
fn read_array(path: &Arc<Path>, batch: &mut Batch) -> Step {
    let failed =
        |found: &dyn ToString| malformed(path, "a JSON array of objects", found.to_string());
    let file = File::open(path).map_err(DataError::io("open", path))?;
    if file.metadata().map_err(DataError::io("open", path))?.len() == 0 {
        return Ok(ControlFlow::Continue(()));
    }
    // SAFETY: the file is read only, here as everywhere in this crate; who changes it meanwhile gets an error of syntax.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(DataError::io("map", path))?;
    let whole = map.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&map);
    let mut rest = whole.trim_ascii();
    if rest.starts_with(b"{") {
        let found = serde_json::from_slice::<IgnoredAny>(rest).map_err(|error| error.to_string());
        let text = found.and(std::str::from_utf8(rest).map_err(|error| error.to_string()));
        let line = text.map_err(|error| failed(&error))?;
        return batch.push(path, 1, line.replace(['\r', '\n'], " "));
    }
    rest = rest
        .strip_prefix(b"[")
        .ok_or_else(|| failed(&"no `[` at its start"))?
        .trim_ascii_start();
    for row in 1.. {
        if rest == b"]" {
            break;
        }
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(failed(&format!("element {row}: {error}"))),
            None => return Err(failed(&format!("it ends after element {}", row - 1))),
        }
        let (element, after) = rest.split_at(values.byte_offset());
        let element = std::str::from_utf8(element)
            .map_err(|error| failed(&format!("element {row}: {error}")))?;
        // A line break inside a JSON string is written `\n`, so these stand between tokens.
        let line = element.trim().replace(['\r', '\n'], " ");
        if batch.push(path, row, line)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let after = after.trim_ascii_start();
        rest = match after.strip_prefix(b",") {
            Some(next) => next.trim_ascii_start(),
            None if after == b"]" => after,
            None => return Err(failed(&format!("no `,` or `]` after element {row}"))),
        };
    }
    Ok(ControlFlow::Continue(()))
}

//! Reads data files as a stream of records: memory holds one batch, not the data.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::*;
use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::chunks::{Step, read_chunks, read_lines};
use crate::config::{DataConfig, Format};
use crate::error::DataError;
use crate::files::list_files;
use crate::guard::without_panics;
use crate::texts::fields;

/// A batch ends with the record that reaches one of these; results do not depend on them.
pub(crate) const RECORDS_OF_A_BATCH: usize = 4096;
pub(crate) const BYTES_OF_A_BATCH: usize = 4 << 20;
/// Rows of a table that are written as JSON together.
const ROWS_AT_A_TIME: usize = 1024;
/// What some programs write before UTF-8 text; no part of it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// One row of the data as JSON on one line, with all its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// From 1, over all files of the data.
    pub number: u64,
    pub path: Arc<Path>,
    /// From 1, in its file: the line of JSON lines, the row of a table, the piece of a text.
    pub row: usize,
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
    let mut batch = Batch {
        records: Vec::new(),
        bytes: 0,
        number: 0,
        take,
    };
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
    let mut batch = Batch {
        records: Vec::new(),
        bytes: 0,
        number: 0,
        take,
    };
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
    match format {
        Format::Json => read_array(path, batch),
        Format::Csv => read_csv(path, batch),
        Format::Parquet => read_parquet(path, columns, batch),
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
        Format::Parquet => parquet_columns(path),
        Format::Csv => {
            let header = CsvRows::open(path)?.next_row();
            let header = header.map_err(DataError::io("read", path))?;
            texts_of_row(path, 0, header.unwrap_or_default())
        }
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
    take: Take<'a>,
}

impl Batch<'_> {
    fn push(&mut self, path: &Arc<Path>, row: usize, line: String) -> Step {
        self.number += 1;
        self.bytes += line.len();
        self.records.push(Record {
            number: self.number,
            path: path.clone(),
            row,
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
    let whole = map.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&map);
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

/// The rows of a csv file that has no header line.
///
/// # Errors
/// A file that cannot be read or is not UTF-8.
pub fn csv_rows(path: &Path) -> Result<Vec<Vec<String>>, DataError> {
    let mut rows = CsvRows::open(path)?;
    let mut found = Vec::new();
    while let Some(fields) = rows.next_row().map_err(DataError::io("read", path))? {
        found.push(texts_of_row(path, found.len() + 1, fields)?);
    }
    Ok(found)
}

fn texts_of_row(path: &Path, row: usize, fields: Vec<Vec<u8>>) -> Result<Vec<String>, DataError> {
    let texts = fields.into_iter().map(String::from_utf8);
    let texts: Result<_, _> = texts.collect();
    texts.map_err(|_| malformed(path, "csv", format!("row {row} is not UTF-8")))
}

/// Every column stays text: a completion "42" is no number.
fn read_csv(path: &Arc<Path>, batch: &mut Batch) -> Step {
    let mut rows = CsvRows::open(path)?;
    let mut next = || rows.next_row().map_err(DataError::io("read", path));
    let Some(header) = next()? else {
        return Ok(ControlFlow::Continue(()));
    };
    let header = texts_of_row(path, 0, header)?;
    for row in 1.. {
        let Some(fields) = next()? else {
            break;
        };
        let mut fields = texts_of_row(path, row, fields)?;
        // Some programs end every line with a comma.
        while fields.len() > header.len() && fields.last().is_some_and(String::is_empty) {
            fields.pop();
        }
        if fields.len() != header.len() {
            let (found, expected) = (fields.len(), header.len());
            let says = format!("row {row} has {found} fields, the header {expected}");
            return Err(malformed(path, "csv", says));
        }
        let mut record = Map::new();
        for (name, field) in header.iter().zip(fields) {
            // Of two columns of one name the first counts.
            record.entry(name).or_insert(Value::from(field));
        }
        if batch
            .push(path, row, Value::Object(record).to_string())?
            .is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The rows of a csv file. The crate `csv` would bring serde's support for it, which nothing here needs.
struct CsvRows {
    file: BufReader<File>,
    parser: csv_core::Reader,
}

impl CsvRows {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let head = file.fill_buf().map_err(DataError::io("read", path))?;
        if head.starts_with(BYTE_ORDER_MARK) {
            file.consume(BYTE_ORDER_MARK.len());
        }
        let parser = csv_core::Reader::new();
        Ok(Self { file, parser })
    }

    fn next_row(&mut self) -> std::io::Result<Option<Vec<Vec<u8>>>> {
        let (mut fields, mut field, mut part) = (Vec::new(), Vec::new(), [0; 4096]);
        let mut quotes = 0;
        loop {
            let input = self.file.fill_buf()?;
            let (result, read, written) = self.parser.read_field(input, &mut part);
            quotes += input[..read].iter().filter(|byte| **byte == b'"').count();
            let is_end = input.is_empty();
            self.file.consume(read);
            field.extend_from_slice(&part[..written]);
            match result {
                csv_core::ReadFieldResult::InputEmpty | csv_core::ReadFieldResult::OutputFull => {}
                csv_core::ReadFieldResult::Field { record_end } => {
                    if is_end && quotes % 2 == 1 && field.contains(&b'\n') {
                        return Err(never_closed(&field));
                    }
                    fields.push(std::mem::take(&mut field));
                    if record_end {
                        return Ok(Some(fields));
                    }
                }
                csv_core::ReadFieldResult::End => return Ok(None),
            }
        }
    }
}

fn parquet_columns(path: &Path) -> Result<Vec<String>, DataError> {
    let failed = |found: String| malformed(path, "parquet", found);
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let schema = without_panics(|| ParquetReader::new(file).schema());
    let schema = schema.map_err(failed)?;
    let schema = schema.map_err(|error| failed(error.to_string()))?;
    Ok(schema.iter_names().map(|name| name.to_string()).collect())
}

/// All that follows an open quote is one field, which the parser takes for what was meant.
fn never_closed(field: &[u8]) -> std::io::Error {
    let begins = String::from_utf8_lossy(field);
    let begins = begins.lines().next().unwrap_or_default();
    let begins: String = begins.chars().take(60).collect();
    std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!("the quote before `{begins}` is never closed"),
    )
}

/// A row group at a time, which is what a reader of parquet can skip to.
fn read_parquet(path: &Arc<Path>, columns: Option<&[String]>, batch: &mut Batch) -> Step {
    let failed = |found: String| malformed(path, "parquet", found);
    let polars = |error: PolarsError| failed(error.to_string());
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let groups: Vec<usize> = without_panics(|| -> PolarsResult<Vec<usize>> {
        let mut reader = ParquetReader::new(file);
        let groups = &reader.get_metadata()?.row_groups;
        Ok(groups.iter().map(|group| group.num_rows()).collect())
    })
    .map_err(failed)?
    .map_err(polars)?;
    let (mut first, mut row) = (0, 0);
    for rows in groups {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let read = || {
            ParquetReader::new(file)
                .with_columns(columns.map(<[String]>::to_vec))
                .with_slice(Some((first, rows)))
                .finish()
        };
        let group = without_panics(read).map_err(failed)?.map_err(polars)?;
        first += rows;
        for start in (0..rows).step_by(ROWS_AT_A_TIME) {
            let mut table = group.slice(start as i64, ROWS_AT_A_TIME);
            let mut text = Vec::new();
            let written = without_panics(|| {
                JsonWriter::new(&mut text)
                    .with_json_format(JsonFormat::JsonLines)
                    .finish(&mut table)
            });
            written.map_err(failed)?.map_err(polars)?;
            let text = String::from_utf8(text).map_err(|error| failed(error.to_string()))?;
            for line in text.lines() {
                row += 1;
                if batch.push(path, row, line.to_string())?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

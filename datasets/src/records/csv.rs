//! Reads csv files, row by row.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Batch, malformed};
use crate::chunks::{BYTE_ORDER_MARK, Step};
use crate::error::DataError;

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

/// The fields of the header line.
pub(super) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let header = CsvRows::open(path)?.next_row();
    let header = header.map_err(DataError::io("read", path))?;
    texts_of_row(path, 0, header.unwrap_or_default())
}

fn texts_of_row(path: &Path, row: usize, fields: Vec<Vec<u8>>) -> Result<Vec<String>, DataError> {
    let texts = fields.into_iter().map(String::from_utf8);
    let texts: Result<_, _> = texts.collect();
    texts.map_err(|_| malformed(path, "csv", format!("row {row} is not UTF-8")))
}

/// Every column stays text: a completion "42" is no number.
pub(super) fn read(path: &Arc<Path>, batch: &mut Batch) -> Step {
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
        if head.starts_with(BYTE_ORDER_MARK.as_bytes()) {
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

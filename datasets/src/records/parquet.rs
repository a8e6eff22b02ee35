//! Reads parquet files, row group by row group.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use polars::prelude::*;

use super::{Batch, malformed};
use crate::chunks::Step;
use crate::error::DataError;
use crate::guard::without_panics;

/// Rows of a table that are written as JSON together.
const ROWS_AT_A_TIME: usize = 1024;

/// The names of the columns.
pub(super) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let failed = |found: String| malformed(path, "parquet", found);
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let schema = without_panics(|| ParquetReader::new(file).schema());
    let schema = schema.map_err(failed)?;
    let schema = schema.map_err(|error| failed(error.to_string()))?;
    Ok(schema.iter_names().map(|name| name.to_string()).collect())
}

/// A row group at a time, which is what a reader of parquet can skip to.
pub(super) fn read(path: &Arc<Path>, columns: Option<&[String]>, batch: &mut Batch) -> Step {
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

//! One pass over a data set: records are judged in parallel, and what is found is taken in order.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::chunks::go_on;
use crate::config::DataConfig;
use crate::error::DataError;
use crate::layout::DropReason;
use crate::records::{Record, read_batches};
use crate::texts::{fields, texts, texts_of};

/// A record with what it says.
pub struct Parsed<'a> {
    pub record: &'a Record,
    pub texts: Vec<String>,
    fields: Map<String, Value>,
}

impl Parsed<'_> {
    /// What stands in a column.
    pub fn value(&self, column: &str) -> Option<&Value> {
        self.fields.get(column)
    }

    /// The text that a filter looks at: of one column, or all of it, its parts on lines of their own. None when it is empty.
    pub fn text(&self, column: Option<&str>) -> Result<Option<String>, DataError> {
        let Some(column) = column else {
            return Ok(Some(self.texts.join("\n")));
        };
        if !self.fields.contains_key(column) {
            return Err(DataError::MissingColumn {
                path: self.record.path.to_path_buf(),
                column: column.to_string(),
                columns: self.fields.keys().cloned().collect(),
            });
        }
        let texts = texts_of(self.record, &self.fields, column)?;
        Ok(texts.ok().map(|texts| texts.join("\n")))
    }
}

/// Runs `judge` on the records that say something, and `take` on all, in their order; `Err` says why a
/// record says nothing. Ends with the data or its `limit`, for which only records that say something count.
///
/// # Errors
/// The first in the order of the records, whatever the number of threads.
pub fn scan<T: Send>(
    config: &DataConfig<PathBuf>,
    judge: impl Fn(&Parsed) -> Result<T, DataError> + Sync,
    mut take: impl FnMut(&Record, Result<T, DropReason>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut wanted = config.limit.unwrap_or(usize::MAX);
    let mut none = true;
    let columns = config.columns.as_ref();
    let look = |record: &Record| -> Result<Result<T, DropReason>, DataError> {
        let fields = fields(record)?;
        Ok(match texts(record, &fields, columns)? {
            Err(reason) => Err(reason),
            Ok(texts) => Ok(judge(&Parsed {
                record,
                texts,
                fields,
            })?),
        })
    };
    read_batches(config, &mut |batch| {
        none = false;
        let found: Vec<_> = batch.par_iter().map(look).collect();
        for (record, found) in batch.iter().zip(found) {
            if wanted == 0 {
                break;
            }
            let found = found?;
            wanted -= usize::from(found.is_ok());
            take(record, found)?;
        }
        Ok(go_on(wanted > 0))
    })?;
    match none {
        false => Ok(()),
        true => Err(DataError::Empty {
            path: config.source.clone(),
            found: "the data holds no records\n\
                    hint: check that `source` names the data that you meant"
                .into(),
        }),
    }
}

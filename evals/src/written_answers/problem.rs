//! Questions with a right answer, read from the layouts in which their sets are published.

use std::ops::ControlFlow;
use std::path::PathBuf;

use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::records::read_batches;
use datasets::texts::fields;

use crate::row::Row;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Problem {
    pub question: String,
    /// What stands behind it in a worked example.
    pub worked: String,
    /// What an answer is compared with.
    pub expected: String,
    pub subject: Option<String>,
    pub level: Option<String>,
}

/// All questions, or the first ones where the data has a limit of its own.
///
/// # Errors
/// Files that cannot be read, records without the set's columns, data without questions.
pub(super) fn read_problems(
    config: &DataConfig<PathBuf>,
    read: fn(&Row) -> Result<Problem, DataError>,
) -> Result<Vec<Problem>, DataError> {
    let mut problems = Vec::new();
    let most = config.limit.unwrap_or(usize::MAX);
    read_batches(config, &mut |records| {
        for record in &records {
            if problems.len() == most {
                return Ok(ControlFlow::Break(()));
            }
            let fields = fields(record)?;
            problems.push(read(&Row { record, fields })?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match problems.is_empty() {
        false => Ok(problems),
        true => Err(DataError::Empty {
            path: config.source.clone(),
            found: "no questions are in it".into(),
        }),
    }
}

//! Removes records that say what an earlier one says.

mod clusters;
mod exact;
mod minhash;
mod signatures;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::selection::Counts;

pub use minhash::MinHash;

/// When two records are the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Equal in NFC, in lower case, and with each run of white space as one space.
    Exact,
    /// Alike by the runs of words that they share: an estimated Jaccard index of at least `threshold`.
    #[serde(rename = "minhash")]
    MinHash(MinHash),
}

impl Method {
    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::Exact => Vec::new(),
            Self::MinHash(settings) => settings.check(),
        }
    }
}

/// Writes the first of each set of duplicates to `name` in `directory`, unchanged and in their order. Compared is the column
/// `field`, or all that a record says.
///
/// # Errors
/// Data that cannot be read, and a disk that is full; no file is left then.
pub fn dedup(
    data: &DataConfig<PathBuf>,
    method: &Method,
    field: Option<&str>,
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    match method {
        Method::Exact => exact::dedup(data, field, directory, name),
        Method::MinHash(settings) => minhash::dedup(data, settings, field, directory, name),
    }
}

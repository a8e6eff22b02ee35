//! What can be wrong with a model file.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error in reading or writing weights. Each names the file and the key or tensor in it.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file system refused: not found, not permitted, full.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },

    /// The bytes are not what the format calls for: truncated, overlapping, contradictory.
    #[error("{}: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },

    /// Valid, but nothing that this program can compute with.
    #[error("{}: {what} {found} is not supported; accepted: {accepted}", path.display())]
    Unsupported {
        path: PathBuf,
        what: String,
        found: String,
        accepted: String,
    },

    /// A configuration or metadata key is missing or has a value that cannot be.
    #[error("{}: key `{key}` is {found}, expected {expected}", path.display())]
    Key {
        path: PathBuf,
        key: String,
        found: String,
        expected: String,
    },

    #[error("{}: tensor `{tensor}` is missing{hint}", path.display())]
    MissingTensor {
        path: PathBuf,
        tensor: String,
        /// Empty, or what to do about it, opening with its own punctuation.
        hint: String,
    },

    /// A tensor that takes part in the computation, but not in the one that the configuration
    /// describes.
    #[error("{}: tensor `{tensor}` is in the file, but {reason}", path.display())]
    UnexpectedTensor {
        path: PathBuf,
        tensor: String,
        reason: String,
    },

    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        path: PathBuf,
        tensor: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },

    #[error("{}: this adapter belongs to another base than {}: {problem}", adapter.display(), base.display())]
    OtherBase {
        adapter: PathBuf,
        base: PathBuf,
        problem: String,
    },

    /// Values or a configuration that the target format cannot hold.
    #[error("{}: cannot be written: {problem}", path.display())]
    Unwritable { path: PathBuf, problem: String },
}

impl WeightsError {
    /// For `map_err`: the error with the path that it happened on.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
        let path = path.to_owned();
        move |source| WeightsError::Io { path, source }
    }

    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> WeightsError {
        WeightsError::Malformed {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn key(
        path: &Path,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> WeightsError {
        WeightsError::Key {
            path: path.to_owned(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        found: impl Into<String>,
        accepted: impl Into<String>,
    ) -> WeightsError {
        WeightsError::Unsupported {
            path: path.to_owned(),
            what: what.into(),
            found: found.into(),
            accepted: accepted.into(),
        }
    }

    pub(crate) fn unwritable(path: &Path, problem: impl Into<String>) -> WeightsError {
        WeightsError::Unwritable {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a source did not become a path. A last line `hint: …` says what to do.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("`{}` does not exist\nhint: {hint}", path.display())]
    NotFound { path: PathBuf, hint: String },
    #[error("{0}")]
    Syntax(String),
    #[error(
        "a download needs the digest of what it fetches\n\
         hint: write {{ kind = \"https\", url = \"{url}\", sha256 = \"…\" }}"
    )]
    NoDigest { url: String },
    #[error(
        "{what} has another digest than it should: found {found}, expected {expected}; \
         the file was removed\n\
         hint: if what was published has changed on purpose, put the new sha256 there"
    )]
    Digest {
        what: String,
        found: String,
        expected: String,
    },
    #[error("cannot fetch {what}: {reason}\nhint: {hint}")]
    Fetch {
        what: String,
        reason: String,
        hint: String,
    },
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "there is no place for the cache\nhint: set DISTILL_CACHE to a directory that may be written"
    )]
    NoCache,
}

impl SourceError {
    pub fn not_found(path: &Path) -> Self {
        let cwd = std::env::current_dir().unwrap_or_default();
        let hint = match path.is_relative() {
            true => format!("paths start at the current directory, {}", cwd.display()),
            false => "check the path's spelling".to_string(),
        };
        Self::NotFound {
            path: path.to_path_buf(),
            hint,
        }
    }

    pub fn fetch(what: impl ToString, reason: impl ToString, hint: impl Into<String>) -> Self {
        Self::Fetch {
            what: what.to_string(),
            reason: reason.to_string(),
            hint: hint.into(),
        }
    }

    /// For `map_err`: an operation on a file that failed.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_path_buf(),
            source,
        }
    }
}

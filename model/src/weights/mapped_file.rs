//! A file mapped into memory, with its path for messages.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::error::WeightsError;

#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        // Before it is opened: opening a pipe would wait for its other end.
        let metadata = fs::metadata(path).map_err(WeightsError::io(path))?;
        if !metadata.is_file() {
            return Err(WeightsError::malformed(path, "is not a file"));
        }
        if metadata.len() == 0 {
            return Err(WeightsError::malformed(path, "is empty"));
        }
        let file = File::open(path).map_err(WeightsError::io(path))?;
        // SAFETY: the mapping is read-only and private to this process. Another process that
        // changes the file meanwhile changes the values read; bytes are only ever read as numbers.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets go of the memory of bytes that have been copied; they can be read again.
    pub(crate) fn forget(&self, bytes: Range<usize>) {
        // SAFETY: the mapping is read-only, so the system reads the same bytes from the file again. Where it does
        // not take the advice, nothing is lost.
        #[cfg(unix)]
        let _ = unsafe {
            (self.map).unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
        };
        #[cfg(not(unix))]
        let _ = bytes;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

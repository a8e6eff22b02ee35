//! A file that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::WeightsError;
use super::staged_directory::{Place, occupied, sync};

/// A file written aside, beside its place, and renamed into it by [`StagedFile::commit`]. Dropped without that, it is
/// removed.
pub struct StagedFile {
    target: PathBuf,
    staging: NamedTempFile,
}

impl StagedFile {
    /// Creates the file aside, and the parents of `target` where they are missing.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; also if `target` exists: nothing is ever overwritten.
    pub fn new(target: &Path) -> Result<Self, WeightsError> {
        let place = Place::of(target, "a file")?;
        if fs::symlink_metadata(&place.target).is_ok() {
            return Err(occupied(&place.target));
        }
        let prefix = place.prepare()?;
        let mut builder = ordinary();
        builder.prefix(&prefix);
        let Place { target, parent } = place;
        let staging = builder
            .tempfile_in(&parent)
            .map_err(WeightsError::io(&target))?;
        Ok(Self { target, staging })
    }

    /// Where it is written.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    pub fn file(&mut self) -> &mut File {
        self.staging.as_file_mut()
    }

    /// Waits until the file is on the disk, renames it into its place and waits for that.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; the target is then as it was.
    pub fn commit(self) -> Result<(), WeightsError> {
        let Self { target, staging } = self;
        let io = |error| WeightsError::io(&target)(error);
        staging.as_file().sync_all().map_err(io)?;
        staging
            .persist_noclobber(&target)
            .map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => occupied(&target),
                _ => io(error.error),
            })?;
        sync(target.parent().unwrap_or(Path::new(".")))
    }
}

/// Writes a file whole or not at all, in the place of one that is there. What is aside has a name that begins with `prefix`.
///
/// # Errors
/// Whatever the disk refuses; what was there is then as it was.
pub fn replace_file(path: &Path, prefix: &str, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = ordinary().prefix(prefix).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

/// A temporary file is for its owner alone; these become ordinary ones.
fn ordinary<'a>() -> tempfile::Builder<'a, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_seen_before_the_commit_and_nothing_is_left_without() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a/b.gguf");
        let mut staged = StagedFile::new(&target).unwrap();
        staged.file().write_all(b"text").unwrap();
        assert!(!target.exists());
        drop(staged);
        assert_eq!(fs::read_dir(place.path().join("a")).unwrap().count(), 0);

        let mut staged = StagedFile::new(&target).unwrap();
        staged.file().write_all(b"text").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"text");
        assert_eq!(fs::read_dir(place.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn what_exists_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("file");
        let staged = StagedFile::new(&target).unwrap();
        fs::write(&target, "mine").unwrap();
        for error in [staged.commit().err(), StagedFile::new(&target).err()] {
            let error = error.unwrap().to_string();
            assert!(error.contains("exists already"), "{error}");
        }
        assert!(StagedFile::new(place.path()).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}

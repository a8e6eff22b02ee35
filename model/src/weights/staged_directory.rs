//! A directory that appears whole or not at all.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use safetensors::View;
use tempfile::TempDir;

use super::error::WeightsError;

/// A directory written aside, beside its place, and renamed into it by [`StagedDirectory::commit`].
/// Dropped without that, it is removed.
pub struct StagedDirectory {
    target: PathBuf,
    parent: PathBuf,
    staging: TempDir,
}

impl StagedDirectory {
    /// Creates the directory aside, and the parents of `target` where they are missing.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; also if `target` exists and is not an empty directory: nothing is ever
    /// overwritten.
    pub fn new(target: &Path) -> Result<Self, WeightsError> {
        let place = Place::of(target, "a directory")?;
        refuse_occupied(&place.target)?;
        let prefix = place.prepare()?;
        let Place { target, parent } = place;
        let mut builder = tempfile::Builder::new();
        // A temporary directory is for its owner alone; this one becomes an ordinary one.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        builder.prefix(&prefix);
        let staging = builder
            .tempdir_in(&parent)
            .map_err(WeightsError::io(&target))?;
        Ok(Self {
            target,
            parent,
            staging,
        })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Creates or replaces a file in the directory and waits until it is on the disk.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let path = self.path().join(name);
        fs::write(&path, bytes).map_err(WeightsError::io(&path))?;
        sync(&path)
    }

    /// As [`StagedDirectory::write`], a safetensors file of these tensors.
    pub fn write_safetensors<S: AsRef<str> + Ord + std::fmt::Display, V: View>(
        &self,
        name: &str,
        tensors: impl IntoIterator<Item = (S, V)>,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<(), WeightsError> {
        let path = self.path().join(name);
        safetensors::serialize_to_file(tensors, metadata, &path)
            .map_err(|error| WeightsError::io(&path)(io::Error::other(error)))?;
        sync(&path)
    }

    /// Renames the directory into its place and waits until that is on the disk. Files in it must
    /// have been synchronised by whoever wrote them, as [`StagedDirectory::write`] does.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; the target is then as it was.
    pub fn commit(self) -> Result<(), WeightsError> {
        sync(self.path())?;
        refuse_occupied(&self.target)?;
        fs::rename(self.path(), &self.target).map_err(WeightsError::io(&self.target))?;
        // Nothing is left to remove where it was written.
        let _ = self.staging.keep();
        sync(&self.parent)
    }
}

/// Where something will be that is written aside first.
pub(super) struct Place {
    pub target: PathBuf,
    pub parent: PathBuf,
}

impl Place {
    /// `kind` is what is to be there: "a file".
    pub fn of(target: &Path, kind: &str) -> Result<Self, WeightsError> {
        let target = std::path::absolute(target).map_err(WeightsError::io(target))?;
        match (target.parent(), target.file_name()) {
            (Some(parent), Some(_)) => Ok(Self {
                parent: parent.to_owned(),
                target,
            }),
            _ => {
                let message = format!("is no place for {kind}");
                let error = io::Error::new(io::ErrorKind::InvalidInput, message);
                Err(WeightsError::io(&target)(error))
            }
        }
    }

    /// Creates the parents; answers with what the names of things written aside begin with.
    pub fn prepare(&self) -> Result<OsString, WeightsError> {
        fs::create_dir_all(&self.parent).map_err(WeightsError::io(&self.target))?;
        let mut prefix = OsString::from(".");
        prefix.push(self.target.file_name().unwrap_or_default());
        prefix.push(".partial-");
        Ok(prefix)
    }
}

pub(super) fn sync(path: &Path) -> Result<(), WeightsError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(WeightsError::io(path))
}

fn refuse_occupied(target: &Path) -> Result<(), WeightsError> {
    let is_free = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    Err(occupied(target))
}

pub(super) fn occupied(target: &Path) -> WeightsError {
    let message = "exists already; remove it or choose another place";
    WeightsError::io(target)(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_seen_before_the_commit_and_nothing_is_left_without() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a/b");
        let staged = StagedDirectory::new(&target).unwrap();
        staged.write("file", b"text").unwrap();
        assert!(!target.exists());
        drop(staged);
        assert_eq!(fs::read_dir(place.path().join("a")).unwrap().count(), 0);

        let staged = StagedDirectory::new(&target).unwrap();
        staged.write("file", b"text").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"text");
        assert_eq!(fs::read_dir(place.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn what_exists_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "mine").unwrap();
        for target in [place.path(), &place.path().join("file")] {
            let error = StagedDirectory::new(target).err().unwrap().to_string();
            assert!(error.contains("exists already"), "{error}");
        }
        let target = place.path().join("late");
        let staged = StagedDirectory::new(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "mine").unwrap();
        assert!(staged.commit().is_err());
        assert_eq!(fs::read(target.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }
}

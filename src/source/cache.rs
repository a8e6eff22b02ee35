//! The user's cache: files under the digest of their contents, written aside and renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use super::error::SourceError;
use super::sha256::{Hashing, Sha256};

#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

const LOCK: &str = ".lock";

impl Cache {
    /// `$DISTILL_CACHE`, or `distill` in the user's cache directory.
    pub fn from_env() -> Result<Self, SourceError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        set("DISTILL_CACHE")
            .map(PathBuf::from)
            .or_else(|| set("XDG_CACHE_HOME").map(|base| Path::new(&base).join("distill")))
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache/distill")))
            .map(Self::at)
            .ok_or(SourceError::NoCache)
    }

    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file `name` of this digest, if it is there.
    pub fn kept(&self, digest: &Sha256, name: &str) -> Option<PathBuf> {
        let path = self.path(digest, name);
        path.exists().then_some(path)
    }

    fn path(&self, digest: &Sha256, name: &str) -> PathBuf {
        self.root.join("files").join(digest.as_str()).join(name)
    }

    /// The file `name` of this digest; `fill` writes it if it is not there yet, and may use the
    /// directory that it is given for what it needs on the way. What does not have the digest is
    /// removed. Of several processes that want the same file one fetches, the others wait.
    pub fn file(
        &self,
        digest: &Sha256,
        name: &str,
        fill: impl FnOnce(&mut dyn Write, &Path) -> Result<(), SourceError>,
    ) -> Result<PathBuf, SourceError> {
        let path = self.path(digest, name);
        if path.exists() {
            return Ok(path);
        }
        let directory = self.root.join("files").join(digest.as_str());
        fs::create_dir_all(&directory).map_err(SourceError::io("create", &directory))?;
        let _lock = lock(&directory.join(LOCK))?;
        if path.exists() {
            return Ok(path);
        }
        remove_leftovers(&directory);

        let scratch = (tempfile::Builder::new()
            .prefix(".part-")
            .tempdir_in(&directory))
        .map_err(SourceError::io("write in", &directory))?;
        let file = partial(&directory, scratch, fill, digest, name)?;
        (file.as_file().sync_all()).map_err(SourceError::io("write", &path))?;
        (file.persist(&path)).map_err(|e| SourceError::io("write", &path)(e.error))?;
        // The name must survive a power cut as the contents do.
        (File::open(&directory).and_then(|directory| directory.sync_all()))
            .map_err(SourceError::io("write", &directory))?;
        Ok(path)
    }
}

/// The filled and verified file, still under a temporary name.
fn partial(
    directory: &Path,
    scratch: TempDir,
    fill: impl FnOnce(&mut dyn Write, &Path) -> Result<(), SourceError>,
    expected: &Sha256,
    name: &str,
) -> Result<NamedTempFile, SourceError> {
    let file = (tempfile::Builder::new()
        .prefix(".part-")
        .tempfile_in(directory))
    .map_err(SourceError::io("write in", directory))?;
    let mut writer = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    fill(&mut writer, scratch.path())?;
    let (buffered, found) = writer.finish();
    let file = (buffered.into_inner())
        .map_err(|e| SourceError::io("write in", directory)(e.into_error()))?;
    if found != *expected {
        return Err(SourceError::Digest {
            what: format!("`{name}`"),
            found: found.to_string(),
            expected: expected.to_string(),
        });
    }
    Ok(file)
}

/// Waits for the lock, which is let go when the file is closed, however the process ends.
pub(super) fn lock(path: &Path) -> Result<File, SourceError> {
    let file = File::create(path).map_err(SourceError::io("lock", path))?;
    if file.try_lock().is_err() {
        tracing::info!("another process fetches {}: waiting for it", path.display());
        file.lock().map_err(SourceError::io("lock", path))?;
    }
    Ok(file)
}

/// Removes what a killed process has left; nobody else writes here while the lock is held.
fn remove_leftovers(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".part-") {
            let path = entry.path();
            let removed = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            if let Err(error) = removed {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(
        bytes: &'static [u8],
    ) -> impl FnOnce(&mut dyn Write, &Path) -> Result<(), SourceError> {
        move |out, _| {
            out.write_all(bytes)
                .map_err(SourceError::io("write", Path::new("test")))
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = (fs::read_dir(directory).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_once_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().to_path_buf());
        let digest = Sha256::of(b"abc");
        let path = cache.file(&digest, "a.txt", write(b"abc")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        let again = cache
            .file(&digest, "a.txt", |_, _| panic!("not fetched again"))
            .unwrap();
        assert_eq!(again, path);
    }

    #[test]
    fn a_wrong_digest_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().to_path_buf());
        let digest = Sha256::of(b"abc");
        let directory = home.path().join("files").join(digest.as_str());
        fs::create_dir_all(directory.join(".part-killed")).unwrap();
        let error = cache
            .file(&digest, "a.txt", write(b"abd"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(digest.as_str()), "{error}");
        assert!(error.contains(Sha256::of(b"abd").as_str()), "{error}");
        assert_eq!(names(&directory), [LOCK]);
        cache.file(&digest, "a.txt", write(b"abc")).unwrap();
        assert_eq!(names(&directory), [LOCK, "a.txt"]);
    }

    #[test]
    fn of_several_one_fetches() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().to_path_buf());
        let fetched = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let fill = |out: &mut dyn Write, _: &Path| {
                        fetched.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        write(b"abc")(out, Path::new(""))
                    };
                    cache.file(&Sha256::of(b"abc"), "a.txt", fill).unwrap();
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }
}

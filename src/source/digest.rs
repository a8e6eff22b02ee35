//! Digests of files and directories, remembered by size and time so that a large model is read
//! only once.

use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::error::SourceError;
use super::sha256::Sha256;

/// The sha256 of a file's contents; of a directory, that of its files' sorted names and digests,
/// hidden files left out.
pub fn digest_of_path(path: &Path, cache: &Cache) -> Result<Sha256, SourceError> {
    let metadata = fs::metadata(path).map_err(SourceError::io("read", path))?;
    if !metadata.is_dir() {
        return digest_of_file(path, &metadata, cache);
    }
    let mut files = Vec::new();
    list(path, path, &mut files)?;
    files.sort();
    let mut listing = String::new();
    for name in files {
        let file = path.join(&name);
        let metadata = fs::metadata(&file).map_err(SourceError::io("read", &file))?;
        let digest = digest_of_file(&file, &metadata, cache)?;
        listing.push_str(&format!("{digest}  {}\n", name.display()));
    }
    Ok(Sha256::of(listing.as_bytes()))
}

fn list(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), SourceError> {
    let entries = fs::read_dir(directory).map_err(SourceError::io("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(SourceError::io("read", directory))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            files.push(name.to_path_buf());
        }
    }
    Ok(())
}

/// What was known of a file when it was read.
#[derive(Deserialize, Serialize, PartialEq)]
struct Seen {
    path: PathBuf,
    size: u64,
    modified_ns: u128,
}

#[derive(Deserialize, Serialize)]
struct Remembered {
    seen: Seen,
    sha256: Sha256,
}

fn digest_of_file(path: &Path, metadata: &Metadata, cache: &Cache) -> Result<Sha256, SourceError> {
    let absolute = fs::canonicalize(path).map_err(SourceError::io("read", path))?;
    let age = metadata.modified().ok();
    let seen = Seen {
        size: metadata.len(),
        modified_ns: age
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos()),
        path: absolute,
    };
    let key = Sha256::of(seen.path.as_os_str().as_encoded_bytes());
    let directory = cache.root().join("digests");
    let record = directory.join(format!("{key}.json"));
    let remembered: Option<Remembered> =
        (fs::read(&record).ok()).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = remembered.filter(|known| known.seen == seen) {
        return Ok(known.sha256);
    }
    let file = File::open(path).map_err(SourceError::io("read", path))?;
    let sha256 = Sha256::of_reader(file).map_err(SourceError::io("read", path))?;
    // A file written within the clock's grain could change again unseen: not remembered.
    let settled = age.is_none_or(|time| time.elapsed().is_ok_and(|age| age.as_secs() >= 2));
    if settled {
        let sha256 = sha256.clone();
        if let Err(error) = remember(&directory, &record, &Remembered { seen, sha256 }) {
            tracing::warn!("cannot remember the digest of {}: {error}", path.display());
        }
    }
    Ok(sha256)
}

fn remember(directory: &Path, record: &Path, remembered: &Remembered) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&file, remembered)?;
    file.persist(record).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_changed_file_is_read_again_and_an_unchanged_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().join("cache"));
        let path = home.path().join("a.txt");
        let old = SystemTime::now() - Duration::from_secs(100);
        let write = |text: &str, time| {
            fs::write(&path, text).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        };
        write("abc", old);
        assert_eq!(digest_of_path(&path, &cache).unwrap(), Sha256::of(b"abc"));
        // The same size and time: the remembered digest is trusted.
        write("abd", old);
        assert_eq!(digest_of_path(&path, &cache).unwrap(), Sha256::of(b"abc"));
        write("abd", old + Duration::from_secs(1));
        assert_eq!(digest_of_path(&path, &cache).unwrap(), Sha256::of(b"abd"));
    }

    #[test]
    fn a_directory_is_its_names_and_contents() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::at(home.path().join("cache"));
        let model = home.path().join("model");
        fs::create_dir_all(model.join("sub")).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        fs::write(model.join("sub/x"), "1").unwrap();
        let digest = |path: &Path| digest_of_path(path, &cache).unwrap();
        let first = digest(&model);
        fs::write(model.join(".hidden"), "1").unwrap();
        assert_eq!(digest(&model), first);
        fs::rename(model.join("sub/x"), model.join("sub/y")).unwrap();
        assert_ne!(digest(&model), first);
    }
}

//! A JSON file that may be missing, may be broken, or says what it should.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use serde::de::DeserializeOwned;

/// What a file says; `None` where there is none.
///
/// # Errors
/// A file that cannot be read or says something else. The text does not name it: only a caller knows by which name.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_broken_and_whole_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("numbers.json");
        let read = || read_json::<Vec<u32>>(&path).map_err(|error| error.to_string());
        assert_eq!(read(), Ok(None));
        for (text, found) in [
            ("[1, 2", "EOF while parsing a list"),
            ("{}", "expected a sequence"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read().unwrap_err();
            assert!(error.contains(found), "{error}");
        }
        fs::write(&path, "[1, 2]").unwrap();
        assert_eq!(read(), Ok(Some(vec![1, 2])));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read().unwrap_err().contains("directory"));
    }
}

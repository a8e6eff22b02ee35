//! Which files a data set consists of, and the format of each.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use crate::config::Format;
use crate::error::DataError;

/// The files to read, and those of the directory that are passed over.
pub type FilesAndSkipped = (Vec<(PathBuf, Format)>, Vec<PathBuf>);

/// The files of a data set in the order of their paths, of one format if it is given.
///
/// # Errors
/// A path that cannot be read, a directory without such files.
pub fn list_files(source: &Path, format: Option<Format>) -> Result<FilesAndSkipped, DataError> {
    let metadata = fs::metadata(source).map_err(DataError::io("open", source))?;
    if !metadata.is_dir() {
        let format = match format {
            Some(format) => format,
            None => recognise(source)?,
        };
        return Ok((vec![(source.to_path_buf(), format)], Vec::new()));
    }
    let mut paths = Vec::new();
    collect_files(source, &mut paths)?;
    let mut found = Vec::new();
    for path in paths {
        let recognised = recognise(&path)?;
        found.push((path, recognised));
    }
    // A data set's directory often carries a README beside its tables: text is read only where there are no tables.
    let tables = found.iter().any(|(_, f)| f.is_table());
    let (files, skipped): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, f)| match format {
        Some(wanted) => *f == wanted,
        None => f.is_table() || !tables,
    });
    let skipped: Vec<PathBuf> = skipped.into_iter().map(|(path, _)| path).collect();
    if files.is_empty() {
        return Err(DataError::Empty {
            path: source.to_path_buf(),
            found: format!(
                "no file of the format in the directory ({} others)",
                skipped.len()
            ),
        });
    }
    Ok((files, skipped))
}

/// All files below a directory in the order of their paths, without hidden ones.
fn collect_files(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(DataError::io("list", directory))? {
        entries.push(entry.map_err(DataError::io("list", directory))?.path());
    }
    entries.sort();
    for path in entries {
        let hidden = path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect_files(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// JSON lines packed by gzip.
pub(crate) fn is_packed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".jsonl.gz", ".ndjson.gz"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_lowercase()
}

/// The format, where a file's name tells it.
pub(crate) fn format_of_name(path: &Path) -> Option<Format> {
    if is_packed(path) {
        return Some(Format::Jsonl);
    }
    match extension(path).as_str() {
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "csv" => Some(Format::Csv),
        "parquet" => Some(Format::Parquet),
        "txt" | "text" | "md" | "rst" | "py" => Some(Format::Text),
        _ => None,
    }
}

/// Whether the first line holds no whole value: an object stands on several lines.
fn begins_with_a_part(head: &[u8]) -> bool {
    let mut lines = head.trim_ascii_start().splitn(2, |&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    lines.next().is_some() && serde_json::from_slice::<IgnoredAny>(first).is_err()
}

/// The format by extension, else by the first bytes.
fn recognise(path: &Path) -> Result<Format, DataError> {
    Ok(match format_of_name(path) {
        Some(format) => format,
        None => {
            let mut head = Vec::new();
            fs::File::open(path)
                .and_then(|file| file.take(4096).read_to_end(&mut head))
                .map_err(DataError::io("read", path))?;
            let json = extension(path) == "json";
            match head.iter().find(|b| !b.is_ascii_whitespace()) {
                _ if head.starts_with(b"PAR1") => Format::Parquet,
                Some(b'{') if json && begins_with_a_part(&head) => Format::Json,
                Some(b'{') => Format::Jsonl,
                Some(b'[') if json => Format::Json,
                Some(_) if json => Format::Json,
                _ => Format::Text,
            }
        }
    })
}

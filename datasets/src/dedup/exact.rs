//! Exact duplicates: a digest of 16 bytes and a number for each different text, in one pass.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::layout::DropReason;
use crate::scan::{Parsed, scan};
use crate::selection::{Counts, Selection};
use crate::words::normalise;

pub fn dedup(
    data: &DataConfig<PathBuf>,
    field: Option<&str>,
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    let mut selection = Selection::new(directory, name, &["duplicate".into()])?;
    let mut first: HashMap<[u8; 16], u64> = HashMap::new();
    let judge = |parsed: &Parsed| {
        let text = parsed.text(field)?;
        Ok(text.map(|text| (digest(&text), text)))
    };
    scan(data, judge, |record, found| match found {
        Err(reason) => selection.unusable(record, reason),
        Ok(None) => selection.unusable(record, DropReason::EmptyText),
        Ok(Some((digest, text))) => match first.get(&digest) {
            None => {
                first.insert(digest, record.number);
                selection.keep(record)
            }
            Some(earlier) => {
                let detail = format!("the same as record {earlier}");
                selection.drop(record, 0, &detail, &text)
            }
        },
    })?;
    selection.finish()
}

/// The first half of the SHA-256 of the normalised text.
fn digest(text: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in normalise(text).split_whitespace() {
        hash.update(part);
        hash.update(" ");
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_space_and_composition_do_not_tell_texts_apart() {
        assert_eq!(digest(" Caf\u{e9}\n two"), digest("cafe\u{301} TWO "));
        assert_ne!(digest("a b"), digest("ab"));
        assert_ne!(digest("a."), digest("a"));
    }
}

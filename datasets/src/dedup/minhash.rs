//! Near duplicates by MinHash and locality-sensitive hashing: records that share a band of their signatures
//! are candidates, and those whose signatures agree enough are joined.
//!
//! Signatures lie in a file without a name; memory holds 24 bytes a record, and the signatures of the records that share one
//! band. With b bands of r rows, two records of Jaccard
//! index s become candidates with probability 1 − (1 − sʳ)ᵇ (Leskovec et al., "Mining of Massive Datasets", 3.4).

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clusters::Clusters;
use super::signatures::{HashFunctions, band_hash, similarity};
use crate::config::DataConfig;
use crate::error::DataError;
use crate::layout::DropReason;
use crate::scan::{Parsed, scan};
use crate::selection::{Counts, Selection};
use crate::words::{hash_word, ngram_hashes, normalise, word_hashes};

/// A text that many records begin with puts them all into one bucket: each is compared with so many others of it.
const COMPARED: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MinHash {
    /// Words of a run; a text of fewer is one run.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub ngram: usize,
    /// Hash functions, and so numbers of a signature, 1 to 4096.
    #[serde(default = "permutations")]
    #[schemars(range(min = 1, max = 4096))]
    pub permutations: usize,
    /// Bands of a signature, as many rows each: records that agree in a whole band are compared. Divides
    /// `permutations`.
    #[serde(default = "bands")]
    #[schemars(range(min = 1, max = 4096))]
    pub bands: usize,
    /// The least estimated Jaccard index of duplicates.
    #[serde(default = "threshold")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub threshold: f64,
}

fn five() -> usize {
    5
}

fn permutations() -> usize {
    112
}

fn bands() -> usize {
    14
}

fn threshold() -> f64 {
    0.7
}

impl MinHash {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &str, says: &str| {
            if !holds {
                found.push((key.to_string(), says.to_string()));
            }
        };
        require(self.ngram > 0, "ngram", "`ngram` must be at least 1");
        require(
            (1..=4096).contains(&self.permutations),
            "permutations",
            "`permutations` must lie between 1 and 4096",
        );
        require(
            self.bands > 0 && self.permutations.is_multiple_of(self.bands),
            "bands",
            "`bands` must divide `permutations`: each band has as many rows",
        );
        require(
            self.threshold > 0.0 && self.threshold <= 1.0,
            "threshold",
            "`threshold` must lie above 0 and be at most 1",
        );
        found
    }
}

pub fn dedup(
    data: &DataConfig<PathBuf>,
    settings: &MinHash,
    field: Option<&str>,
    directory: &Path,
    name: &str,
) -> Result<Counts, DataError> {
    let (mut signatures, numbers) = sign(data, settings, field, directory)?;
    let mut clusters = signatures.clusters(settings)?;
    let mut selection = Selection::new(directory, name, &["near duplicate".into()])?;
    let mut index = 0;
    let judge = |parsed: &Parsed| parsed.text(field);
    scan(data, judge, |record, found| {
        let text = match found {
            Err(reason) => return selection.unusable(record, reason),
            Ok(None) => return selection.unusable(record, DropReason::EmptyText),
            Ok(Some(text)) => text,
        };
        if numbers.get(index as usize) != Some(&(record.number as u32)) {
            return Err(DataError::Malformed {
                path: record.path.to_path_buf(),
                expected: "the same data twice",
                found: "it was changed meanwhile".into(),
            });
        }
        let (item, root) = (index, clusters.root(index));
        index += 1;
        if item == root {
            return selection.keep(record);
        }
        let estimate = similarity(&signatures.read(item)?, &signatures.read(root)?);
        let first = numbers[root as usize];
        let detail =
            format!("of the cluster of record {first}, estimated Jaccard index {estimate:.2}");
        selection.drop(record, 0, &detail, &text)
    })?;
    selection.finish()
}

/// The signatures of all records that say something, and the numbers of these records.
fn sign(
    data: &DataConfig<PathBuf>,
    settings: &MinHash,
    field: Option<&str>,
    directory: &Path,
) -> Result<(Signatures, Vec<u32>), DataError> {
    let failed = || DataError::io("write signatures in", directory);
    let functions = HashFunctions::new(settings.permutations);
    let mut file = BufWriter::new(tempfile::tempfile_in(directory).map_err(failed())?);
    let mut numbers = Vec::new();
    let judge = |parsed: &Parsed| {
        let Some(text) = parsed.text(field)? else {
            return Ok(None);
        };
        let mut words = word_hashes(&text);
        if words.is_empty() {
            // Of signs alone: as a whole it is its only word.
            words.push(hash_word(&normalise(&text)));
        }
        Ok(Some(
            functions.signature(ngram_hashes(&words, settings.ngram)),
        ))
    };
    scan(data, judge, |record, signature| {
        let Ok(Some(signature)) = signature else {
            return Ok(());
        };
        let number = u32::try_from(record.number).map_err(|_| DataError::Setting {
            key: "data",
            found: "more than 4294967295 records".into(),
            expected: "fewer, for `minhash`".into(),
        })?;
        numbers.push(number);
        file.write_all(bytemuck::cast_slice(&signature))
            .map_err(failed())
    })?;
    let signatures = Signatures {
        file: file
            .into_inner()
            .map_err(|error| failed()(error.into_error()))?,
        directory: directory.to_path_buf(),
        length: settings.permutations,
        count: numbers.len() as u32,
    };
    Ok((signatures, numbers))
}

/// Signatures in a file, one after the other.
struct Signatures {
    file: File,
    /// For messages: the file has no name.
    directory: PathBuf,
    length: usize,
    count: u32,
}

impl Signatures {
    fn read(&self, item: u32) -> Result<Vec<u32>, DataError> {
        let mut signature = vec![0u32; self.length];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut signature);
        let at = u64::from(item) * bytes.len() as u64;
        self.file
            .read_exact_at(bytes, at)
            .map_err(DataError::io("read signatures in", &self.directory))?;
        Ok(signature)
    }

    /// Joins the records of which a chain of pairs shares a band and reaches the threshold.
    fn clusters(&mut self, settings: &MinHash) -> Result<Clusters, DataError> {
        let mut clusters = Clusters::new(self.count);
        let rows = settings.permutations / settings.bands;
        for band in 0..settings.bands {
            let mut hashes = self.band(band * rows..(band + 1) * rows)?;
            hashes.sort_unstable();
            for bucket in hashes.chunk_by(|(a, _), (b, _)| a == b) {
                self.join(bucket, (band + 1) * rows, settings.threshold, &mut clusters)?;
            }
        }
        Ok(clusters)
    }

    fn band(&mut self, rows: std::ops::Range<usize>) -> Result<Vec<(u64, u32)>, DataError> {
        let failed = || DataError::io("read signatures in", &self.directory);
        self.file.rewind().map_err(failed())?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut signature = vec![0u32; self.length];
        let mut hashes = Vec::with_capacity(self.count as usize);
        for item in 0..self.count {
            reader
                .read_exact(bytemuck::cast_slice_mut(&mut signature))
                .map_err(failed())?;
            hashes.push((band_hash(&signature[rows.clone()]), item));
        }
        Ok(hashes)
    }

    /// Compares the records of a bucket, each pair that is not joined yet; equal signatures are joined at once. Of a large
    /// bucket each is compared with those that follow it in the order of their signatures, read from the number `from` on
    /// and then from the start: in each band another order.
    fn join(
        &self,
        bucket: &[(u64, u32)],
        from: usize,
        threshold: f64,
        clusters: &mut Clusters,
    ) -> Result<(), DataError> {
        if bucket.len() < 2 {
            return Ok(());
        }
        let mut different: Vec<(Vec<u32>, u32)> = Vec::new();
        for (_, item) in bucket {
            let mut signature = self.read(*item)?;
            signature.rotate_left(from % self.length);
            different.push((signature, *item));
        }
        different.sort_unstable();
        different.dedup_by(|(b, later), (a, first)| {
            let equal = a == b;
            if equal {
                clusters.unite(*first, *later);
            }
            equal
        });
        for (i, (a, first)) in different.iter().enumerate() {
            for (b, later) in different[i + 1..].iter().take(COMPARED) {
                if clusters.root(*first) != clusters.root(*later) && similarity(a, b) >= threshold {
                    clusters.unite(*first, *later);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

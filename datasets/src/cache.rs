//! Samples are tokenised once into one indexed file, which is then mapped into memory.
//!
//! Layout (little endian): a header of 128 bytes; the ids of all samples (u32); their masks (one byte a token); zeros up
//! to a multiple of 8; the offsets of the samples (u64, one more than samples); their first targets (u32); whether
//! they may be split (one byte each).

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::mask::SampleEncoder;
use crate::packing::SampleShape;
use crate::preference::{self, LeftOut, Preference};
use crate::read::{self, TakeSamples, data_digest};
use crate::sample::Sample;

mod unfinished;

use unfinished::Unfinished;

const MAGIC: [u8; 8] = *b"DSTLTOKS";
/// Part of every cache's key: raised whenever ids or masks of the same data would come out differently.
const VERSION: u64 = 3;
const HEADER_BYTES: usize = 128;

/// Tokenised samples in a memory-mapped file.
#[derive(Debug)]
pub struct TokenCache {
    map: Mmap,
    counts: Counts,
}

/// One sample of a cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CachedSample<'a> {
    pub ids: &'a [u32],
    /// One byte a token: not 0 where the token is a target.
    pub supervised: &'a [u8],
    pub splittable: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    samples: u64,
    tokens: u64,
    supervised: u64,
    /// Samples without any target, which are left out.
    without_targets: u64,
    /// Pairs that were left out when they were read.
    left_out: LeftOut,
}

impl TokenCache {
    /// Opens the cache of `key` in `directory`, or tokenises the samples that `read` hands over and writes it.
    ///
    /// A file of another key or version, or one that is damaged, is written anew. The key has to cover the data, the
    /// tokenizer and the template. Fails when no sample has a token to learn.
    pub fn build_or_open(
        directory: &Path,
        key: &str,
        encoder: &SampleEncoder<'_>,
        read: impl FnOnce(TakeSamples) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        Self::open_or_write(directory, key, |path, digest| {
            let encode = |sample: &Sample| Ok(vec![encoder.encode(sample)?]);
            let mut cache = Unfinished::new(path)?;
            read(&mut |samples| cache.add(&samples, encode))?;
            cache.finish(digest, LeftOut::default())
        })
    }

    fn open_or_write(
        directory: &Path,
        key: &str,
        write: impl FnOnce(&Path, &[u8; 32]) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let digest: [u8; 32] = Sha256::digest(format!("{VERSION}:{key}")).into();
        let name: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
        let path = directory.join(format!("{name}.tokens"));
        if let Some(cache) = Self::open(&path, &digest)? {
            return Ok(cache);
        }
        std::fs::create_dir_all(directory).map_err(DataError::io("create", directory))?;
        write(&path, &digest)?;
        Self::open(&path, &digest)?.ok_or_else(|| DataError::Malformed {
            path,
            expected: "the token cache that was just written",
            found: "another file".into(),
        })
    }

    /// The cache of a data set: reads and tokenises the data only when no cache fits.
    pub fn of_data(
        directory: &Path,
        config: &DataConfig<PathBuf>,
        encoder: &SampleEncoder<'_>,
    ) -> Result<Self, DataError> {
        let key = format!("{}:{}", data_digest(config)?, encoder.digest());
        Self::build_or_open(directory, &key, encoder, |take| {
            let report = read::read_in_batches(config, take)?;
            if !report.dropped.is_empty() {
                let source = config.source.display();
                tracing::warn!(
                    "{source}: {} rows, dropped: {:?}",
                    report.rows,
                    report.dropped
                );
            }
            Ok(())
        })
    }

    /// The cache of a data set of preference pairs: sample 2i is the chosen side of a pair and sample 2i + 1 the rejected
    /// one. Only what the sides say after their common beginning is learned.
    pub fn of_pairs(
        directory: &Path,
        config: &DataConfig<PathBuf>,
        encoder: &SampleEncoder<'_>,
    ) -> Result<Self, DataError> {
        let key = format!("pairs:{}:{}", data_digest(config)?, encoder.digest());
        Self::open_or_write(directory, &key, |path, digest| {
            let encode = |pair: &Preference| {
                let side = |reply| encoder.encode_reply(&pair.prompt, reply);
                Ok(vec![side(&pair.chosen)?, side(&pair.rejected)?])
            };
            let mut cache = Unfinished::new(path)?;
            let left_out =
                preference::read_in_batches(config, &mut |pairs| cache.add(&pairs, encode))?;
            cache.finish(digest, left_out)
        })
    }

    /// Pairs that were left out when the data was read; of other data none.
    pub fn left_out(&self) -> LeftOut {
        self.counts.left_out
    }

    /// None when there is no file, or none that fits.
    fn open(path: &Path, digest: &[u8; 32]) -> Result<Option<Self>, DataError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io("open", path)(error)),
        };
        // SAFETY: caches are only ever replaced by renaming another file over them, so the mapped file does not change.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", path))?;
        let Some(counts) = read_header(&map, digest) else {
            tracing::warn!(
                "{}: the token cache is damaged and is written anew",
                path.display()
            );
            return Ok(None);
        };
        let cache = Self { map, counts };
        if !cache.is_consistent() {
            tracing::warn!(
                "{}: the token cache is damaged and is written anew",
                path.display()
            );
            return Ok(None);
        }
        Ok(Some(cache))
    }

    /// SHA-256 (hexadecimal) of the tokens, their masks and the samples' borders.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(&self.map[HEADER_BYTES..]);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.counts.samples as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> u64 {
        self.counts.tokens
    }

    /// Targets of all samples.
    pub fn supervised(&self) -> u64 {
        self.counts.supervised
    }

    /// Samples that had nothing to learn and were left out.
    pub fn without_targets(&self) -> u64 {
        self.counts.without_targets
    }

    /// Sample `index` (below [`Self::len`]).
    pub fn sample(&self, index: usize) -> CachedSample<'_> {
        let layout = Layout::of(&self.counts);
        let offsets = self.offsets();
        let (start, end) = (offsets[index] as usize, offsets[index + 1] as usize);
        let ids: &[u32] = bytemuck::cast_slice(&self.map[HEADER_BYTES..layout.masks]);
        CachedSample {
            ids: &ids[start..end],
            supervised: &self.map[layout.masks + start..layout.masks + end],
            splittable: self.map[layout.splittable + index] != 0,
        }
    }

    /// The tokens of each sample.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets()
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as u32)
            .collect()
    }

    /// What packing needs to know of each sample.
    pub fn shapes(&self) -> Vec<SampleShape> {
        let layout = Layout::of(&self.counts);
        let first_targets: &[u32] =
            bytemuck::cast_slice(&self.map[layout.first_targets..layout.splittable]);
        self.lengths()
            .into_iter()
            .zip(first_targets)
            .zip(&self.map[layout.splittable..])
            .map(|((length, first_target), splittable)| SampleShape {
                length,
                first_target: *first_target,
                splittable: *splittable != 0,
            })
            .collect()
    }

    fn offsets(&self) -> &[u64] {
        let layout = Layout::of(&self.counts);
        bytemuck::cast_slice(&self.map[layout.offsets..layout.first_targets])
    }

    fn is_consistent(&self) -> bool {
        let offsets = self.offsets();
        offsets.first() == Some(&0)
            && offsets.last() == Some(&self.counts.tokens)
            && offsets
                .windows(2)
                .all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= u64::from(u32::MAX))
    }
}

/// Where the parts of a file begin, in bytes.
struct Layout {
    masks: usize,
    offsets: usize,
    first_targets: usize,
    splittable: usize,
    end: usize,
}

impl Layout {
    fn of(counts: &Counts) -> Self {
        let (samples, tokens) = (counts.samples as usize, counts.tokens as usize);
        let masks = HEADER_BYTES + 4 * tokens;
        let offsets = (masks + tokens).next_multiple_of(8);
        let first_targets = offsets + 8 * (samples + 1);
        let splittable = first_targets + 4 * samples;
        Self {
            masks,
            offsets,
            first_targets,
            splittable,
            end: splittable + samples,
        }
    }
}

fn read_header(bytes: &[u8], digest: &[u8; 32]) -> Option<Counts> {
    let number = |at: usize| {
        bytes
            .get(at..at + 8)
            .map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
    };
    if bytes.get(..8)? != MAGIC || number(8)? != VERSION || bytes.get(16..48)? != digest {
        return None;
    }
    let counts = Counts {
        samples: number(48)?,
        tokens: number(56)?,
        supervised: number(64)?,
        without_targets: number(72)?,
        left_out: LeftOut {
            equal: number(80)?,
            empty: number(88)?,
        },
    };
    // Counts beyond the file would overflow the layout.
    let size = bytes.len() as u64;
    (counts.samples <= size && counts.tokens <= size && Layout::of(&counts).end == bytes.len())
        .then_some(counts)
}

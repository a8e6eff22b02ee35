//! One shard: a safetensors file with the [`Header`] as JSON in its metadata, under `soft_targets`.
//!
//! | tensor | shape | what |
//! |---|---|---|
//! | `entropy` | F16 `[targets]` | nats, of the teacher's distribution at the temperature, see [`super::header::EntropyOf`]; NaN where nothing is known of a position |
//! | `piece_ends` | U32 `[pieces]` | targets up to and with each piece |
//! | `piece_bytes` | U32 `[pieces]` | bytes of `records` up to and with each piece |
//! | `records` | U8 `[bytes]` | the targets one after another, see [`super::record`] |

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use memmap2::Mmap;
use model::weights::staged_file::replace_file;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::record::RecordReader;
use super::{Header, ShardError};
use crate::sparse_targets::SparseTargets;

const METADATA: &str = "soft_targets";
/// The arrays in the order of the checksum.
const ARRAYS: [(&str, Dtype); 4] = [
    ("entropy", Dtype::F16),
    ("piece_ends", Dtype::U32),
    ("piece_bytes", Dtype::U32),
    ("records", Dtype::U8),
];

/// The arrays of a shard that is being made.
#[derive(Debug, Default)]
pub struct ShardArrays {
    pub entropy: Vec<f16>,
    pub piece_ends: Vec<u32>,
    pub piece_bytes: Vec<u32>,
    pub records: Vec<u8>,
}

/// One position as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub entropy: f16,
    pub record: Vec<u8>,
}

impl ShardArrays {
    /// Adds the targets of the next piece.
    pub fn push_piece(&mut self, targets: &[Target]) {
        for target in targets {
            self.records.extend(&target.record);
            self.entropy.push(target.entropy);
        }
        self.piece_ends.push(self.entropy.len() as u32);
        self.piece_bytes.push(self.records.len() as u32);
    }
}

/// Where shard `number` of a directory lies.
pub fn shard_path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("shard-{number:05}.safetensors"))
}

/// Writes a shard whole or not at all: aside, synced and renamed. The header gets its checksum.
pub fn write_shard(
    directory: &Path,
    mut header: Header,
    arrays: &ShardArrays,
) -> Result<(), ShardError> {
    let path = shard_path(directory, header.shard);
    let views: [&[u8]; 4] = [
        bytemuck::cast_slice(&arrays.entropy),
        bytemuck::cast_slice(&arrays.piece_ends),
        bytemuck::cast_slice(&arrays.piece_bytes),
        &arrays.records,
    ];
    header.checksum = header.checksum_of(views);
    let malformed = |error: &dyn std::fmt::Display| ShardError::malformed(&path, error.to_string());
    let metadata = serde_json::to_string(&header).map_err(|error| malformed(&error))?;
    let tensors = (ARRAYS.iter().zip(views))
        .map(|((name, dtype), bytes)| {
            let count = bytes.len() * 8 / dtype.bitsize();
            Ok((*name, TensorView::new(*dtype, vec![count], bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| malformed(&error))?;
    let metadata = HashMap::from([(METADATA.to_string(), metadata)]);
    let bytes =
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| malformed(&error))?;
    replace_file(&path, ".shard-", &bytes).map_err(ShardError::io("write", &path))
}

/// A shard in memory-mapped form, whose checksum was found right.
#[derive(Debug)]
pub struct ShardFile {
    path: PathBuf,
    map: Mmap,
    pub header: Header,
    /// Where the arrays lie in the file.
    places: [Range<usize>; 4],
}

impl ShardFile {
    /// # Errors
    /// [`ShardError::Io`], [`ShardError::Truncated`], [`ShardError::Malformed`], [`ShardError::Checksum`].
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        let metadata = fs::metadata(path).map_err(ShardError::io("open", path))?;
        if !metadata.is_file() {
            return Err(ShardError::malformed(path, "it is no file"));
        }
        if metadata.len() == 0 {
            return Err(ShardError::Truncated {
                path: path.to_owned(),
                found: "it is empty".into(),
            });
        }
        let file = File::open(path).map_err(ShardError::io("open", path))?;
        // SAFETY: shards are only ever replaced by renaming another file over them, and their bytes are only ever read as
        // numbers that are checked.
        let map = unsafe { Mmap::map(&file) }.map_err(ShardError::io("map", path))?;
        let (header, places) = read_header(path, &map)?;
        let found = header.checksum_of(places.iter().map(|place| &map[place.clone()]));
        if found != header.checksum {
            return Err(ShardError::Checksum {
                path: path.to_owned(),
                expected: header.checksum,
                found,
            });
        }
        let shard = Self {
            path: path.to_owned(),
            map,
            header,
            places,
        };
        match shard.is_consistent() {
            true => Ok(shard),
            false => Err(ShardError::malformed(
                path,
                "its pieces and its targets are not as many as its header says",
            )),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn array(&self, at: usize) -> &[u8] {
        &self.map[self.places[at].clone()]
    }

    /// Nats, of target `at` (below the header's count).
    pub fn entropy(&self, at: usize) -> f32 {
        let bytes = &self.array(0)[2 * at..2 * at + 2];
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    /// What array 1 or 2 holds for the pieces before piece `at`.
    fn up_to(&self, array: usize, at: usize) -> usize {
        match at {
            0 => 0,
            _ => {
                let place = 4 * (at - 1);
                let bytes = self.array(array).get(place..place + 4).unwrap_or_default();
                u32::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize
            }
        }
    }

    fn is_consistent(&self) -> bool {
        let (pieces, targets) = (self.header.pieces, self.header.targets);
        let rises =
            |array| (0..pieces).all(|at| self.up_to(array, at) <= self.up_to(array, at + 1));
        self.array(0).len() == 2 * targets
            && self.array(1).len() == 4 * pieces
            && self.array(2).len() == 4 * pieces
            && rises(1)
            && rises(2)
            && self.up_to(1, pieces) == targets
            && self.up_to(2, pieces) == self.array(3).len()
    }

    /// Adds the targets of piece `at` of this shard (below the header's count).
    ///
    /// # Errors
    /// [`ShardError::Malformed`] for records that cannot be read.
    pub fn read_piece(
        &self,
        reader: &RecordReader,
        at: usize,
        targets: &mut SparseTargets,
    ) -> Result<(), ShardError> {
        let mut bytes = &self.array(3)[self.up_to(2, at)..self.up_to(2, at + 1)];
        for target in self.up_to(1, at)..self.up_to(1, at + 1) {
            let entropy = f64::from(self.entropy(target));
            let rest = reader
                .read(bytes, entropy, targets)
                .and_then(|read| bytes.get(read..));
            bytes = rest.ok_or_else(|| {
                let number = self.header.first_target + target as u64;
                ShardError::malformed(&self.path, format!("target {number} cannot be read"))
            })?;
        }
        Ok(())
    }
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<(Header, [Range<usize>; 4]), ShardError> {
    let truncated = |found: String| ShardError::Truncated {
        path: path.to_owned(),
        found,
    };
    let (length, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| truncated(error.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(METADATA));
    let text = text
        .ok_or_else(|| ShardError::malformed(path, format!("its metadata have no `{METADATA}`")))?;
    let header: Header = serde_json::from_str(text)
        .map_err(|error| ShardError::malformed(path, format!("its header: {error}")))?;
    let start = 8 + length;
    let mut places: [Range<usize>; 4] = Default::default();
    for (place, (name, dtype)) in places.iter_mut().zip(ARRAYS) {
        let tensor = metadata.info(name).filter(|tensor| tensor.dtype == dtype);
        let tensor = tensor.ok_or_else(|| {
            ShardError::malformed(path, format!("there is no {dtype:?} `{name}`"))
        })?;
        let (from, to) = tensor.data_offsets;
        if from > to || bytes.len() - start < to {
            return Err(truncated(format!("`{name}` ends beyond the file")));
        }
        *place = start + from..start + to;
    }
    Ok((header, places))
}

//! All shards of a directory, and the targets of a batch.

use std::fs;
use std::path::{Path, PathBuf};

use datasets::batch::Batch;
use datasets::pieces::PieceList;
use rayon::prelude::*;

use super::header::FORMAT;
use super::record::RecordReader;
use super::shard_file::{ShardFile, shard_path};
use super::{Description, ShardError};
use crate::sparse_targets::SparseTargets;

/// A directory of shards, all there and whole.
#[derive(Debug)]
pub struct SoftTargets {
    directory: PathBuf,
    shards: Vec<ShardFile>,
    reader: RecordReader,
}

impl SoftTargets {
    /// Opens every shard and computes its checksum.
    ///
    /// # Errors
    /// Any [`ShardError`], with the file that is missing, cut off, corrupt or of another capture.
    pub fn open(directory: &Path) -> Result<Self, ShardError> {
        let numbers = numbers_in(directory)?;
        let Some(&known) = numbers.first() else {
            return Err(ShardError::NoShards {
                path: directory.to_owned(),
            });
        };
        // Before gigabytes of others are read.
        let count = ShardFile::open(&shard_path(directory, known))?
            .header
            .description
            .shards;
        let there = numbers.iter().filter(|number| **number < count).count();
        if there < count {
            let gap = (0..).zip(&numbers).find(|(at, number)| at != *number);
            return Err(ShardError::Missing {
                path: shard_path(directory, gap.map_or(there, |(at, _)| at)),
                missing: count - there,
                shards: count,
            });
        }
        let opened: Vec<Result<ShardFile, ShardError>> = numbers
            .par_iter()
            .map(|number| ShardFile::open(&shard_path(directory, *number)))
            .collect();
        let shards = opened.into_iter().collect::<Result<Vec<_>, _>>()?;
        let description = &shards[0].header.description;
        let (mut pieces, mut targets) = (0, 0);
        for number in 0..description.shards {
            let path = shard_path(directory, number);
            let Some(shard) = shards.get(number).filter(|shard| shard.path() == path) else {
                return Err(ShardError::Missing {
                    path,
                    missing: 1,
                    shards: description.shards,
                });
            };
            let header = &shard.header;
            if header.description != *description
                || (header.shard, header.first_piece, header.first_target)
                    != (number, pieces, targets)
            {
                return Err(ShardError::malformed(
                    shard.path(),
                    "it belongs to another capture than the first shard",
                ));
            }
            pieces += header.pieces;
            targets += header.targets as u64;
        }
        if let Some(shard) = shards.get(description.shards) {
            return Err(ShardError::malformed(
                shard.path(),
                format!("there are only {} shards", description.shards),
            ));
        }
        let reader = reader_of(description, shards[0].path())?;
        Ok(Self {
            directory: directory.to_owned(),
            shards,
            reader,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn description(&self) -> &Description {
        &self.shards[0].header.description
    }

    pub fn shards(&self) -> &[ShardFile] {
        &self.shards
    }

    /// Positions with targets.
    pub fn targets(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.header.targets as u64)
            .sum()
    }

    /// The targets of the batch's supervised positions, in their order. `pieces` are those of the batch's corpus.
    ///
    /// # Errors
    /// [`ShardError::NotStored`] for a batch that was cut otherwise.
    pub fn of_batch(&self, batch: &Batch, pieces: &PieceList) -> Result<SparseTargets, ShardError> {
        let mut targets = SparseTargets::new(self.description().vocabulary);
        for placed in &batch.pieces {
            let before = targets.len();
            let stored = pieces.number(&placed.piece).and_then(|number| {
                let first = |shard: &ShardFile| shard.header.first_piece;
                let shard = self.shards.partition_point(|shard| first(shard) <= number);
                let shard = self.shards.get(shard.checked_sub(1)?)?;
                Some((shard, number - first(shard))).filter(|(s, at)| *at < s.header.pieces)
            });
            if let Some((shard, at)) = stored {
                shard.read_piece(&self.reader, at, &mut targets)?;
            }
            let supervised = placed.cells().filter(|cell| batch.supervised[*cell]);
            if stored.is_none() || targets.len() - before != supervised.count() {
                return Err(ShardError::NotStored {
                    path: self.directory.clone(),
                    sample: placed.piece.sample,
                    start: placed.piece.start,
                });
            }
        }
        Ok(targets)
    }

    /// The targets of the first `count` positions.
    ///
    /// # Errors
    /// [`ShardError::Malformed`] for records that cannot be read.
    pub fn first(&self, count: usize) -> Result<SparseTargets, ShardError> {
        let mut targets = SparseTargets::new(self.description().vocabulary);
        let pieces = (self.shards.iter())
            .flat_map(|shard| (0..shard.header.pieces).map(move |at| (shard, at)));
        for (shard, at) in pieces {
            if targets.len() >= count {
                break;
            }
            shard.read_piece(&self.reader, at, &mut targets)?;
        }
        Ok(targets)
    }
}

/// The numbers of the shards in a directory, rising.
fn numbers_in(directory: &Path) -> Result<Vec<usize>, ShardError> {
    let entries = fs::read_dir(directory).map_err(ShardError::io("open", directory))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ShardError::io("read", directory))?;
        let name = entry.file_name();
        let number = (name.to_str())
            .and_then(|name| name.strip_prefix("shard-"))
            .and_then(|name| name.strip_suffix(".safetensors"))
            .and_then(|number| number.parse::<usize>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Refuses descriptions that this program does not read.
fn reader_of(description: &Description, path: &Path) -> Result<RecordReader, ShardError> {
    if description.format != FORMAT {
        let problem = format!(
            "it is of format {}; this program reads {FORMAT}",
            description.format
        );
        return Err(ShardError::malformed(path, problem));
    }
    let Description {
        encoding,
        vocabulary,
        ..
    } = *description;
    encoding
        .check()
        .map_err(|error| ShardError::malformed(path, error.to_string()))?;
    match (1..=1 << 24).contains(&vocabulary) {
        true => Ok(RecordReader::new(encoding, vocabulary)),
        false => Err(ShardError::malformed(
            path,
            format!("it claims a vocabulary of {vocabulary} tokens"),
        )),
    }
}

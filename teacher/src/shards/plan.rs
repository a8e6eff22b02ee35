//! What a directory of shards will hold.

use std::ops::Range;
use std::path::Path;

use datasets::mixture::Corpus;
use datasets::pieces::PieceList;

use super::shard_file::{ShardFile, shard_path};
use super::{Description, Header};

/// The pieces and the first target of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    pub pieces: Range<usize>,
    pub first_target: u64,
    pub targets: usize,
}

/// All shards of a capture, and what their headers say.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturePlan {
    pub description: Description,
    pub shards: Vec<ShardPlan>,
}

/// Cuts all pieces into shards; each ends with the piece that reaches `targets_per_shard` targets.
pub fn plan_shards(
    corpus: &Corpus,
    pieces: &PieceList,
    targets_per_shard: usize,
) -> Vec<ShardPlan> {
    let mut plans = Vec::new();
    let (mut start, mut targets, mut first_target) = (0, 0, 0);
    for number in 0..pieces.len() {
        targets += pieces.targets(corpus, number);
        if targets >= targets_per_shard || number + 1 == pieces.len() {
            plans.push(ShardPlan {
                pieces: start..number + 1,
                first_target,
                targets,
            });
            first_target += targets as u64;
            (start, targets) = (number + 1, 0);
        }
    }
    plans
}

impl CapturePlan {
    /// Positions with targets.
    pub fn targets(&self) -> u64 {
        self.shards.iter().map(|plan| plan.targets as u64).sum()
    }

    /// The header of a shard (below the plan's count), without its checksum.
    pub fn header(&self, number: usize) -> Header {
        let plan = &self.shards[number];
        Header {
            description: self.description.clone(),
            shard: number,
            first_piece: plan.pieces.start,
            pieces: plan.pieces.len(),
            first_target: plan.first_target,
            targets: plan.targets,
            checksum: String::new(),
        }
    }

    /// Whether the shard is there, whole and of this very capture.
    pub fn is_done(&self, directory: &Path, number: usize) -> bool {
        let found = ShardFile::open(&shard_path(directory, number));
        found.is_ok_and(|found| {
            let expected = Header {
                checksum: found.header.checksum.clone(),
                ..self.header(number)
            };
            found.header == expected
        })
    }
}

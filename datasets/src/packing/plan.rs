//! The rows of an epoch, and what became of its samples.

use serde::{Deserialize, Serialize};

use super::rows::{best_fit, stream, tokens_of};
use super::{Packing, Piece, SampleShape};
use crate::random::Random;

/// The rows of one epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct PackingPlan {
    pieces: Vec<Piece>,
    /// Row r holds pieces `row_ends[r - 1]..row_ends[r]`.
    row_ends: Vec<u32>,
    report: PackingReport,
}

/// What became of the samples of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackingReport {
    pub samples: u64,
    /// Tokens of these samples, before anything is cut.
    pub tokens: u64,
    pub rows: u64,
    /// Positions of the rows that hold no token.
    pub padding_tokens: u64,
    pub split_samples: u64,
    /// Tokens that stand in rows twice: at the end of a piece, and as context at the start of the next.
    pub repeated_tokens: u64,
    pub truncated_samples: u64,
    /// Tokens cut off from the ends of truncated samples.
    pub truncated_tokens: u64,
    /// Samples left out because their prompt alone fills the sequence length.
    pub dropped_samples: u64,
    /// Sides of pairs left out because they are the same tokens, or are once they are cut.
    #[serde(default)]
    pub equal_samples: u64,
    /// Rows left out because they would hold no target: a stream cuts prompts that are longer than a row.
    pub dropped_rows: u64,
    /// Tokens of the samples and rows that are left out.
    pub dropped_tokens: u64,
}

impl PackingPlan {
    /// Lays the samples of `order` (indices into `shapes`, repeats allowed) into rows and shuffles the rows.
    /// `sequence_length` is at least 2.
    ///
    /// `has_target` reads the mask: whether any of [`Piece::predicted`] is a target. Only pieces for which the shapes
    /// leave that open are asked for.
    pub fn new(
        shapes: &[SampleShape],
        order: &[u32],
        sequence_length: usize,
        packing: Packing,
        has_target: impl Fn(&Piece) -> bool,
        random: &mut Random,
    ) -> Self {
        let length = sequence_length as u32;
        let mut report = PackingReport::default();
        let mut pieces = Vec::with_capacity(order.len());
        for &sample in order {
            let shape = shapes[sample as usize];
            report.samples += 1;
            report.tokens += u64::from(shape.length);
            if !shape.is_usable(sequence_length, packing) {
                report.dropped_samples += 1;
                report.dropped_tokens += u64::from(shape.length);
                continue;
            }
            if packing == Packing::Stream {
                pieces.push(shape.whole(sample));
                continue;
            }
            pieces.extend(shape.pieces(sample, length));
            if shape.length > length && shape.splittable {
                report.split_samples += 1;
            } else if shape.length > length {
                report.truncated_samples += 1;
                report.truncated_tokens += u64::from(shape.length - length);
            }
        }
        let mut rows = match packing {
            Packing::Pack => best_fit(pieces, length),
            Packing::Stream => stream(pieces, length, &mut report),
            Packing::None => pieces.into_iter().map(|piece| vec![piece]).collect(),
        };
        rows.retain(|row| {
            let is_kept = row.iter().any(|piece| {
                let shape = shapes[piece.sample as usize];
                let (first, predicted) = (shape.first_target as usize, piece.predicted());
                first < predicted.end
                    && (first >= predicted.start || shape.splittable || has_target(piece))
            });
            let continued = row.iter().filter(|piece| piece.is_continued()).count() as u64;
            if is_kept {
                report.repeated_tokens += continued;
            } else {
                report.dropped_rows += 1;
                report.dropped_tokens += tokens_of(row) - continued;
            }
            is_kept
        });
        random.shuffle(&mut rows);
        Self::of_rows(rows, sequence_length, report)
    }

    pub(super) fn of_rows(
        rows: Vec<Vec<Piece>>,
        sequence_length: usize,
        mut report: PackingReport,
    ) -> Self {
        report.rows = rows.len() as u64;
        let mut row_ends = Vec::with_capacity(rows.len());
        let mut pieces = Vec::new();
        for row in rows {
            pieces.extend(row);
            row_ends.push(pieces.len() as u32);
        }
        report.padding_tokens = report.rows * sequence_length as u64 - tokens_of(&pieces);
        Self {
            pieces,
            row_ends,
            report,
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.row_ends.len()
    }

    /// The pieces of a row, from left to right; none beyond the last row.
    pub fn row(&self, row: usize) -> &[Piece] {
        let Some(end) = self.row_ends.get(row) else {
            return &[];
        };
        let start = if row == 0 { 0 } else { self.row_ends[row - 1] };
        &self.pieces[start as usize..*end as usize]
    }

    pub fn report(&self) -> PackingReport {
        self.report
    }
}

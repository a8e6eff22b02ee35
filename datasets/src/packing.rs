//! Which pieces of which samples lie in which row: a pure function of lengths, the sequence length and an order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// How samples are laid into rows of the sequence length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Several samples a row, by best fit: little padding, no sample cut that fits.
    #[default]
    Pack,
    /// All samples in one stream, cut at every sequence length: no padding; meant for plain text.
    Stream,
    /// One sample a row, padded.
    None,
}

/// What packing needs to know of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleShape {
    /// Tokens.
    pub length: u32,
    /// Index of the first token that is a target.
    pub first_target: u32,
    /// Whether it is split where it is longer than a row; it is truncated otherwise.
    pub splittable: bool,
}

impl SampleShape {
    /// Whether anything is left to learn when rows hold `sequence_length` tokens.
    pub fn is_usable(&self, sequence_length: usize, packing: Packing) -> bool {
        let cut = !self.splittable && packing != Packing::Stream;
        self.length > 1 && (!cut || (self.first_target as usize) < sequence_length)
    }
}

/// Tokens `start..start + length` of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub sample: u32,
    pub start: u32,
    pub length: u32,
}

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
    pub truncated_samples: u64,
    /// Tokens cut off from the ends of truncated samples.
    pub truncated_tokens: u64,
    /// Samples left out because their prompt alone fills the sequence length.
    pub dropped_samples: u64,
    pub dropped_tokens: u64,
}

impl PackingPlan {
    /// Lays the samples of `order` (indices into `shapes`, repeats allowed) into rows and shuffles the rows.
    /// `sequence_length` is at least 2.
    pub fn new(
        shapes: &[SampleShape],
        order: &[u32],
        sequence_length: usize,
        packing: Packing,
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
            let whole = Piece {
                sample,
                start: 0,
                length: shape.length,
            };
            if packing == Packing::Stream || shape.length <= length {
                pieces.push(whole);
            } else if shape.splittable {
                report.split_samples += 1;
                pieces.extend(split(whole, length, length));
            } else {
                report.truncated_samples += 1;
                report.truncated_tokens += u64::from(shape.length - length);
                pieces.push(Piece { length, ..whole });
            }
        }
        let mut rows = match packing {
            Packing::Pack => best_fit(pieces, length),
            Packing::Stream => stream(pieces, length, &mut report),
            Packing::None => pieces.into_iter().map(|piece| vec![piece]).collect(),
        };
        random.shuffle(&mut rows);
        report.rows = rows.len() as u64;
        let mut row_ends = Vec::with_capacity(rows.len());
        let mut pieces = Vec::new();
        for row in rows {
            pieces.extend(row);
            row_ends.push(pieces.len() as u32);
        }
        let used: u64 = pieces.iter().map(|p| u64::from(p.length)).sum();
        report.padding_tokens = report.rows * sequence_length as u64 - used;
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

/// Cuts a piece after `first` tokens, then after every `length`.
fn split(piece: Piece, first: u32, length: u32) -> impl Iterator<Item = Piece> {
    let end = piece.start + piece.length;
    let mut start = piece.start;
    let mut size = first;
    std::iter::from_fn(move || {
        if start >= end {
            return None;
        }
        let cut = Piece {
            sample: piece.sample,
            start,
            length: size.min(end - start),
        };
        start += cut.length;
        size = length;
        Some(cut)
    })
}

/// Longest first, each into the fullest row that still has room: the number of rows depends on the lengths alone.
fn best_fit(mut pieces: Vec<Piece>, length: u32) -> Vec<Vec<Piece>> {
    pieces.sort_by_key(|piece| Reverse(piece.length));
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    // Rows by the room that they have left.
    let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for piece in pieces {
        let room = open.range(piece.length..).next().map(|(room, _)| *room);
        let (row, room) = match room {
            Some(room) => {
                let row = open.get_mut(&room).and_then(Vec::pop);
                if open.get(&room).is_some_and(Vec::is_empty) {
                    open.remove(&room);
                }
                (row, room)
            }
            None => (None, length),
        };
        let row = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            rows.len() - 1
        });
        rows[row].push(piece);
        let left = room - piece.length;
        if left > 0 {
            open.entry(left).or_default().push(row);
        }
    }
    rows
}

fn stream(pieces: Vec<Piece>, length: u32, report: &mut PackingReport) -> Vec<Vec<Piece>> {
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for piece in pieces {
        let first = if room == 0 { length } else { room };
        let mut cuts = 0;
        for cut in split(piece, first, length) {
            if room == 0 {
                rows.push(Vec::new());
                room = length;
            }
            room -= cut.length;
            if let Some(row) = rows.last_mut() {
                row.push(cut);
            }
            cuts += 1;
        }
        report.split_samples += u64::from(cuts > 1);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_shapes(random: &mut Random, n: usize, longest: u64) -> Vec<SampleShape> {
        (0..n)
            .map(|_| {
                let length = 2 + random.below(longest) as u32;
                SampleShape {
                    length,
                    first_target: 1 + random.below(u64::from(length) - 1) as u32,
                    splittable: random.below(2) == 0,
                }
            })
            .collect()
    }

    /// Every token of every sample is in the plan once, or in one of the report's counts.
    #[test]
    fn every_token_appears_once_or_is_counted() {
        for case in 0..60 {
            let mut random = Random::new(case, "packing", 0, "test");
            let length = 2 + random.below(60) as usize;
            let n = 1 + random.below(200) as usize;
            let shapes = random_shapes(&mut random, n, 150);
            let order = random.permutation(shapes.len());
            for packing in [Packing::Pack, Packing::Stream, Packing::None] {
                let plan = PackingPlan::new(&shapes, &order, length, packing, &mut random);
                let report = plan.report();
                let mut seen: Vec<Vec<bool>> = shapes
                    .iter()
                    .map(|s| vec![false; s.length as usize])
                    .collect();
                for row in 0..plan.rows() {
                    let used: u32 = plan.row(row).iter().map(|p| p.length).sum();
                    assert!(used as usize <= length && used > 0);
                    for piece in plan.row(row) {
                        for token in piece.start..piece.start + piece.length {
                            let cell = &mut seen[piece.sample as usize][token as usize];
                            assert!(!*cell, "token twice");
                            *cell = true;
                        }
                    }
                }
                let used: u64 = seen.iter().flatten().filter(|s| **s).count() as u64;
                assert_eq!(
                    used + report.truncated_tokens + report.dropped_tokens,
                    report.tokens
                );
                assert_eq!(report.rows * length as u64, used + report.padding_tokens);
                assert_eq!(report.samples, shapes.len() as u64);
                for (shape, seen) in shapes.iter().zip(&seen) {
                    let count = seen.iter().filter(|s| **s).count();
                    if shape.splittable || packing == Packing::Stream {
                        assert_eq!(count, seen.len());
                    } else if count > 0 {
                        assert!(seen[shape.first_target as usize], "kept without a target");
                        assert_eq!(count, seen.len().min(length));
                    }
                }
                if packing == Packing::Stream {
                    assert!(report.padding_tokens < length as u64);
                }
            }
        }
    }

    #[test]
    fn best_fit_fills_rows_and_its_row_count_ignores_the_order() {
        let mut random = Random::new(1, "packing", 0, "fill");
        let shapes = random_shapes(&mut random, 3000, 100);
        let mut counts = Vec::new();
        for _ in 0..3 {
            let order = random.permutation(shapes.len());
            let plan = PackingPlan::new(&shapes, &order, 256, Packing::Pack, &mut random);
            let report = plan.report();
            assert!(
                report.padding_tokens * 100 < report.rows * 256,
                "{report:?}"
            );
            counts.push(plan.rows());
        }
        assert!(counts.iter().all(|c| *c == counts[0]));
    }

    #[test]
    fn long_samples_are_split_truncated_or_dropped() {
        let shape = |length, first_target, splittable| SampleShape {
            length,
            first_target,
            splittable,
        };
        let shapes = [shape(10, 1, true), shape(10, 2, false), shape(10, 4, false)];
        let mut random = Random::new(0, "packing", 0, "test");
        let plan = PackingPlan::new(&shapes, &[0, 1, 2], 4, Packing::Pack, &mut random);
        assert_eq!(
            plan.report(),
            PackingReport {
                samples: 3,
                tokens: 30,
                rows: 4,
                padding_tokens: 2,
                split_samples: 1,
                truncated_samples: 1,
                truncated_tokens: 6,
                dropped_samples: 1,
                dropped_tokens: 10,
            }
        );
        assert_eq!(plan.row(99), &[]);
    }
}

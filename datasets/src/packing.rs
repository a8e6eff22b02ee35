//! Which pieces of which samples lie in which row: a pure function of lengths and masks, the sequence length and an
//! order.
//!
//! The first token of a piece is context only: nothing before it predicts it. So a piece that continues a sample begins
//! with the last token of the piece before, and every row holds at least one target.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// How samples are laid into rows of the sequence length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Several samples a row, by best fit: little padding, no sample cut that fits.
    #[default]
    Pack,
    /// All samples in one stream, cut at every sequence length: hardly any padding; meant for plain text.
    Stream,
    /// One sample a row, padded.
    None,
}

/// What packing needs to know of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleShape {
    /// Tokens.
    pub length: u32,
    /// Index of the first token that is a target; never 0.
    pub first_target: u32,
    /// Whether it is split where it is longer than a row; it is truncated otherwise. All tokens from the first target
    /// on are targets then.
    pub splittable: bool,
}

impl SampleShape {
    /// Whether anything is left to learn when rows hold `sequence_length` tokens.
    pub fn is_usable(&self, sequence_length: usize, packing: Packing) -> bool {
        let cut = !self.splittable && packing != Packing::Stream;
        self.length > 1 && (!cut || (self.first_target as usize) < sequence_length)
    }

    fn whole(&self, sample: u32) -> Piece {
        Piece {
            sample,
            start: 0,
            length: self.length,
        }
    }

    /// How `pack` and `none` cut a usable sample, whatever the order: split or truncated where it is longer than
    /// `length` tokens.
    pub(crate) fn pieces(&self, sample: u32, length: u32) -> impl Iterator<Item = Piece> {
        let kept = match self.splittable {
            true => self.length,
            false => self.length.min(length),
        };
        let whole = Piece {
            length: kept,
            ..self.whole(sample)
        };
        split(whole, length, length)
    }
}

/// Tokens `start..start + length` of a sample, at least two. The first of them is no target here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub sample: u32,
    pub start: u32,
    pub length: u32,
}

impl Piece {
    /// The tokens of the sample that are predicted in this piece where they are targets: all but the first.
    pub fn predicted(&self) -> Range<usize> {
        self.start as usize + 1..(self.start + self.length) as usize
    }

    /// Whether the first token belongs to the piece before, too.
    fn is_continued(&self) -> bool {
        self.start > 0
    }
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

    fn of_rows(rows: Vec<Vec<Piece>>, sequence_length: usize, mut report: PackingReport) -> Self {
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

    /// Lays pairs of samples into rows, each pair side by side in one of them, and shuffles the rows. A pair is named by its
    /// first sample, the second is the next one. In the report's counts of samples and tokens each side is a sample.
    pub fn of_pairs(
        shapes: &[SampleShape],
        order: &[u32],
        sequence_length: usize,
        packing: Packing,
        random: &mut Random,
    ) -> Self {
        let length = sequence_length as u32;
        let mut report = PackingReport::default();
        let mut pairs = Vec::with_capacity(order.len());
        for &first in order {
            let sides = [0, 1].map(|side| shapes[(first + side) as usize]);
            let tokens: u64 = sides.iter().map(|side| u64::from(side.length)).sum();
            report.samples += 2;
            report.tokens += tokens;
            let Some(kept) = pair_lengths(&sides, length) else {
                report.dropped_samples += 2;
                report.dropped_tokens += tokens;
                continue;
            };
            for (side, kept) in sides
                .iter()
                .zip(kept)
                .filter(|(side, kept)| side.length > *kept)
            {
                report.truncated_samples += 1;
                report.truncated_tokens += u64::from(side.length - kept);
            }
            pairs.push(Piece {
                sample: first,
                start: 0,
                length: kept[0] + kept[1],
            });
        }
        let mut rows = match packing {
            Packing::Pack => best_fit(pairs, length),
            Packing::Stream | Packing::None => pairs.into_iter().map(|pair| vec![pair]).collect(),
        };
        random.shuffle(&mut rows);
        let both_sides = |pair: Piece| {
            let sides = [0, 1].map(|side| shapes[(pair.sample + side) as usize]);
            let kept = pair_lengths(&sides, length).unwrap_or_default();
            [0, 1].map(|side| Piece {
                sample: pair.sample + side,
                start: 0,
                length: kept[side as usize],
            })
        };
        let rows = rows
            .into_iter()
            .map(|row| row.into_iter().flat_map(both_sides).collect());
        Self::of_rows(rows.collect(), sequence_length, report)
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

/// How many tokens of each side are kept where both stand in one row: a pair that is too long is cut to one length on both
/// sides, the largest that fits. None where a side has no target left.
pub(crate) fn pair_lengths(sides: &[SampleShape; 2], row: u32) -> Option<[u32; 2]> {
    let lengths = sides.map(|side| side.length);
    let shorter = lengths[0].min(lengths[1]);
    let limit = match lengths[0].saturating_add(lengths[1]) <= row {
        true => row,
        false => (row / 2).max(row.saturating_sub(shorter)),
    };
    let kept = lengths.map(|length| length.min(limit));
    let is_learned = (sides.iter().zip(kept)).all(|(side, kept)| side.first_target < kept);
    is_learned.then_some(kept)
}

fn tokens_of(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.length)).sum()
}

/// Cuts a piece into one of `first` tokens (at least 2) and others of `length`. Each begins with the last token of the
/// one before, so none of them is of a single token.
fn split(piece: Piece, first: u32, length: u32) -> impl Iterator<Item = Piece> {
    let end = piece.start + piece.length;
    let mut start = piece.start;
    let mut size = first;
    std::iter::from_fn(move || {
        if start + 1 >= end {
            return None;
        }
        let cut = Piece {
            sample: piece.sample,
            start,
            length: size.min(end - start),
        };
        start += cut.length - 1;
        size = length;
        Some(cut)
    })
}

/// Longest first, each into the fullest row that still has room: the number of rows depends on the lengths alone.
pub(crate) fn best_fit(mut pieces: Vec<Piece>, length: u32) -> Vec<Vec<Piece>> {
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
        // One token alone has nothing to predict: the last position of such a row stays padding.
        if room < 2 {
            room = 0;
        }
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

    /// Masks of text, where every token but the first is a target, and of others, where any may be.
    fn random_masks(random: &mut Random, n: usize, longest: u64) -> (Vec<Vec<bool>>, Vec<bool>) {
        (0..n)
            .map(|_| {
                let length = 2 + random.below(longest) as usize;
                let splittable = random.below(2) == 0;
                let share = 1 + random.below(40);
                let mut mask: Vec<bool> = (0..length)
                    .map(|t| t > 0 && (splittable || random.below(share) == 0))
                    .collect();
                mask[1 + random.below(length as u64 - 1) as usize] = true;
                (mask, splittable)
            })
            .unzip()
    }

    fn shapes_of(masks: &[Vec<bool>], splittable: &[bool]) -> Vec<SampleShape> {
        (masks.iter().zip(splittable))
            .map(|(mask, splittable)| SampleShape {
                length: mask.len() as u32,
                first_target: mask.iter().position(|t| *t).unwrap() as u32,
                splittable: *splittable,
            })
            .collect()
    }

    /// Every target of every sample is predicted once, or it lies beyond a truncation; every token is in the plan or
    /// in one of the report's counts; every row holds a target.
    #[test]
    fn every_target_is_predicted_once_and_every_token_is_counted() {
        let mut dropped_rows = 0;
        for case in 0..60 {
            let mut random = Random::new(case, "packing", 0, "test");
            let length = 2 + random.below(60) as usize;
            let n = 1 + random.below(200) as usize;
            let (masks, splittable) = random_masks(&mut random, n, 150);
            let shapes = shapes_of(&masks, &splittable);
            let has_target =
                |piece: &Piece| masks[piece.sample as usize][piece.predicted()].contains(&true);
            let order = random.permutation(shapes.len());
            for packing in [Packing::Pack, Packing::Stream, Packing::None] {
                let plan =
                    PackingPlan::new(&shapes, &order, length, packing, has_target, &mut random);
                let report = plan.report();
                let mut predicted: Vec<Vec<u32>> =
                    masks.iter().map(|mask| vec![0; mask.len()]).collect();
                let mut used = 0;
                for row in 0..plan.rows() {
                    let row = plan.row(row);
                    assert!(tokens_of(row) <= length as u64);
                    assert!(row.iter().any(has_target), "a row without a target");
                    used += tokens_of(row);
                    for piece in row {
                        assert!(piece.length > 1, "a token alone");
                        for token in piece.predicted() {
                            predicted[piece.sample as usize][token] += 1;
                        }
                    }
                }
                assert_eq!(
                    used + report.truncated_tokens + report.dropped_tokens,
                    report.tokens + report.repeated_tokens
                );
                assert_eq!(report.rows * length as u64, used + report.padding_tokens);
                assert_eq!(report.samples, shapes.len() as u64);
                for ((shape, mask), predicted) in shapes.iter().zip(&masks).zip(&predicted) {
                    let whole = shape.splittable || packing == Packing::Stream;
                    for (token, is_target) in mask.iter().enumerate() {
                        let is_dropped = shape.first_target as usize >= length;
                        let expected = whole || (token < length && !is_dropped);
                        assert!(predicted[token] <= 1, "predicted twice");
                        if *is_target {
                            assert_eq!(predicted[token], u32::from(expected));
                        }
                    }
                }
                if packing == Packing::Stream {
                    // One position a row at most, but for the last.
                    assert!(report.padding_tokens < report.rows + length as u64);
                    dropped_rows += report.dropped_rows;
                } else {
                    assert_eq!(report.dropped_rows, 0);
                }
            }
        }
        assert!(dropped_rows > 0);
    }

    #[test]
    fn best_fit_fills_rows_and_its_row_count_ignores_the_order() {
        let mut random = Random::new(1, "packing", 0, "fill");
        let (masks, splittable) = random_masks(&mut random, 3000, 400);
        let shapes = shapes_of(&masks, &splittable);
        let mut counts = Vec::new();
        for _ in 0..3 {
            let order = random.permutation(shapes.len());
            let plan = PackingPlan::new(
                &shapes,
                &order,
                256,
                Packing::Pack,
                |_| panic!("shapes suffice"),
                &mut random,
            );
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
    fn a_pair_stands_in_one_row_and_is_cut_on_both_sides_alike() {
        let side = |length, first_target| shape(length, first_target, false);
        for (sides, kept) in [
            ([side(10, 2), side(6, 2)], Some([10, 6])),
            ([side(10, 2), side(7, 2)], Some([9, 7])),
            ([side(30, 2), side(9, 2)], Some([8, 8])),
            ([side(30, 9), side(9, 2)], None),
            ([side(4, 2), side(40, 11)], Some([4, 12])),
            ([side(4, 2), side(40, 12)], None),
        ] {
            assert_eq!(pair_lengths(&sides, 16), kept, "{sides:?}");
        }
        let mut random = Random::new(5, "packing", 0, "pairs");
        let shapes: Vec<SampleShape> = (0..400)
            .map(|_| {
                let length = 2 + random.below(40) as u32;
                side(length, 1 + random.below(u64::from(length) - 1) as u32)
            })
            .collect();
        let mut order: Vec<u32> = (0..200).map(|pair| 2 * pair).collect();
        let mut counts = Vec::new();
        for packing in [Packing::Pack, Packing::Pack, Packing::None] {
            random.shuffle(&mut order);
            let plan = PackingPlan::of_pairs(&shapes, &order, 48, packing, &mut random);
            let report = plan.report();
            let (mut seen, mut used) = (Vec::new(), 0);
            for row in 0..plan.rows() {
                let row = plan.row(row);
                assert!(tokens_of(row) <= 48);
                used += tokens_of(row);
                for sides in row.chunks(2) {
                    assert_eq!(sides[0].sample + 1, sides[1].sample);
                    assert_eq!(sides[0].sample % 2, 0);
                    seen.push(sides[0].sample);
                }
            }
            seen.sort_unstable();
            let usable = (0..200).map(|pair| 2 * pair).filter(|&at| {
                pair_lengths(&[shapes[at as usize], shapes[at as usize + 1]], 48).is_some()
            });
            assert_eq!(seen, usable.collect::<Vec<u32>>());
            assert!(report.truncated_samples > 0 && report.dropped_samples > 0);
            assert_eq!(
                used + report.truncated_tokens + report.dropped_tokens,
                report.tokens
            );
            assert_eq!(report.rows * 48, used + report.padding_tokens);
            counts.push(plan.rows());
        }
        assert!(counts[0] == counts[1] && counts[1] < counts[2]);
    }

    fn shape(length: u32, first_target: u32, splittable: bool) -> SampleShape {
        SampleShape {
            length,
            first_target,
            splittable,
        }
    }

    #[test]
    fn long_samples_are_split_truncated_or_dropped() {
        let shapes = [shape(10, 1, true), shape(10, 2, false), shape(10, 4, false)];
        let mut random = Random::new(0, "packing", 0, "test");
        let plan = PackingPlan::new(
            &shapes,
            &[0, 1, 2],
            4,
            Packing::Pack,
            |_| panic!("shapes suffice"),
            &mut random,
        );
        assert_eq!(
            plan.report(),
            PackingReport {
                samples: 3,
                tokens: 30,
                rows: 4,
                padding_tokens: 0,
                split_samples: 1,
                repeated_tokens: 2,
                truncated_samples: 1,
                truncated_tokens: 6,
                dropped_samples: 1,
                equal_samples: 0,
                dropped_rows: 0,
                dropped_tokens: 10,
            }
        );
        assert_eq!(plan.row(99), &[]);
    }

    #[test]
    fn pieces_of_a_sample_overlap_by_one_token_and_none_is_a_token_alone() {
        let mut random = Random::new(0, "packing", 0, "test");
        for length in 2..20 {
            let shapes = [shape(length, 1, true)];
            let plan = PackingPlan::new(&shapes, &[0], 4, Packing::Pack, |_| false, &mut random);
            let mut pieces: Vec<(u32, u32)> = (0..plan.rows())
                .flat_map(|row| plan.row(row))
                .map(|piece| (piece.start, piece.start + piece.length))
                .collect();
            pieces.sort_unstable();
            let expected: Vec<(u32, u32)> = (0..length - 1)
                .step_by(3)
                .map(|start| (start, length.min(start + 4)))
                .collect();
            assert_eq!(pieces, expected);
        }
    }

    #[test]
    fn a_stream_leaves_out_rows_of_prompts_alone() {
        // The second sample's only target is its last token.
        let shapes = [shape(3, 1, true), shape(16, 15, false), shape(4, 1, true)];
        let mut random = Random::new(0, "packing", 0, "test");
        let has_target = |piece: &Piece| piece.sample == 1 && piece.predicted().contains(&15);
        let plan = PackingPlan::new(
            &shapes,
            &[0, 1, 2],
            4,
            Packing::Stream,
            has_target,
            &mut random,
        );
        // The first sample and a free position; five rows of the second, of which the last is kept; the third sample.
        let rows: Vec<&[Piece]> = (0..plan.rows()).map(|row| plan.row(row)).collect();
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert!(
            rows.iter()
                .flat_map(|row| row.iter())
                .any(|piece| { (piece.sample, piece.start, piece.length) == (1, 12, 4) })
        );
        assert_eq!(
            plan.report(),
            PackingReport {
                samples: 3,
                tokens: 23,
                rows: 3,
                padding_tokens: 1,
                split_samples: 1,
                repeated_tokens: 1,
                dropped_rows: 4,
                dropped_tokens: 13,
                ..PackingReport::default()
            }
        );
    }
}

//! Pairs of samples, each side by side in one row.

use super::rows::best_fit;
use super::{Packing, PackingPlan, PackingReport, Piece, SampleShape};
use crate::random::Random;

impl PackingPlan {
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

#[cfg(test)]
mod tests {
    use super::super::rows::tokens_of;
    use super::super::tests::shape;
    use super::*;

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
}

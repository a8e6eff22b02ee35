use super::rows::tokens_of;
use super::*;
use crate::random::Random;

pub(super) fn shape(length: u32, first_target: u32, splittable: bool) -> SampleShape {
    SampleShape {
        length,
        first_target,
        splittable,
    }
}

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
            let plan = PackingPlan::new(&shapes, &order, length, packing, has_target, &mut random);
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

//! How samples lie in rows: how full these are, how much of them is learned, how far back a token sees.

use datasets::packing::{Packing, PackingPlan, SampleShape};
use datasets::random::Random;
use datasets::template_tokens::TemplateTokens;

use super::data_facts::{DataFacts, SampleSize, sides};
use super::work;

/// Samples that are laid out: others are alike. And rows that one of them is cut into at most.
const LAID_OUT: usize = 4096;
const LONGEST_ROWS: usize = 64;

/// A row of training data, in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Positions, with those of padding.
    pub length: usize,
    pub tokens: usize,
    /// Tokens that count in the loss, and of the row that has most of them.
    pub learned: usize,
    pub most_learned: usize,
    /// Tokens that see one another: of samples of one length, as costly as those that are there.
    pub segment: usize,
}

impl RowLayout {
    /// A row of one text, all of it learned.
    pub fn full(length: usize) -> Self {
        Self {
            length,
            tokens: length,
            learned: length,
            most_learned: length,
            segment: length,
        }
    }

    /// A row of the data's, and how many of them an epoch has. Data that was not read fills its rows.
    pub fn of(
        data: &DataFacts,
        template: TemplateTokens,
        packing: Packing,
        length: usize,
    ) -> (Self, u64) {
        let full = Self::full(length);
        let some = data.some_sizes(LAID_OUT, (LONGEST_ROWS * length.max(1)) as f64);
        if some.is_empty() || !(2..=1 << 30).contains(&length) {
            return (full, data.tokens().div_ceil(length.max(1) as u64));
        }
        let shapes: Vec<SampleShape> = some.iter().map(|size| size.shape(template)).collect();
        let plan = laid(&shapes, data.pairs, packing, length);
        let rows = plan.rows();
        if rows == 0 {
            return (full, 0);
        }
        let (mut tokens, mut learned, mut seen, mut most) = (0_usize, 0.0, 0.0, 0.0_f64);
        for row in 0..rows {
            let mut of_row = 0.0;
            for piece in plan.row(row) {
                let (number, predicted) = (piece.sample as usize, piece.predicted());
                let first = shapes[number].first_target as usize;
                let behind = predicted.end.saturating_sub(predicted.start.max(first));
                tokens += piece.length as usize;
                of_row += behind as f64 * some[number].share_behind(template);
                seen += work::causal(piece.length as usize, piece.length as usize);
            }
            learned += of_row;
            most = most.max(of_row);
        }
        let whole = |tokens: f64| (tokens.ceil() as usize).clamp(1, length);
        let row = Self {
            length,
            tokens: tokens.div_ceil(rows).min(length),
            learned: whole(learned / rows as f64),
            most_learned: whole(most),
            segment: whole((2.0 * seen / tokens.max(1) as f64 - 1.0).round()),
        };
        // Only some samples were read, or laid out.
        let here: f64 = some.iter().map(SampleSize::tokens).sum();
        let all = (data.tokens() as f64 / here.max(1.0)).max(1.0);
        (row, (rows as f64 * all).ceil() as u64)
    }

    /// Queries and keys that meet in a row.
    pub fn seen(&self) -> f64 {
        work::causal(self.tokens, self.segment)
    }
}

fn laid(shapes: &[SampleShape], pairs: bool, packing: Packing, length: usize) -> PackingPlan {
    let mut random = Random::new(0, "plan", 0, "rows");
    let order = (0..shapes.len() as u32).step_by(sides(pairs));
    let order: Vec<u32> = order.collect();
    match pairs {
        true => PackingPlan::of_pairs(shapes, &order, length, packing, &mut random),
        false => PackingPlan::new(shapes, &order, length, packing, |_| true, &mut random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: TemplateTokens = TemplateTokens {
        opening: 0.0,
        turn: 0.0,
    };

    fn data(sizes: &[(f64, f64)], pairs: bool) -> DataFacts {
        let sizes = sizes.iter().map(|&(read, learned)| SampleSize {
            read,
            learned,
            turns: 2,
            ..SampleSize::default()
        });
        let sizes: Vec<SampleSize> = sizes.collect();
        let samples = sizes.len() / sides(pairs);
        DataFacts::of_sizes(sizes, samples as u64, pairs)
    }

    #[test]
    fn rows_are_as_full_as_samples_let_them_be() {
        // Of 10 and of 6 tokens in a row of 16; of 9 in one of their own.
        let found = data(&[(4.0, 6.0), (1.0, 5.0), (8.0, 1.0)], false);
        let (row, rows) = RowLayout::of(&found, NONE, Packing::Pack, 16);
        assert_eq!(rows, 2);
        // 25 tokens, of which 6 + 5 + 1 are learned; 55 + 21 + 45 meet.
        assert_eq!((row.tokens, row.learned, row.segment), (13, 6, 9));
        assert_eq!(row.most_learned, 11);
        let (alone, rows) = RowLayout::of(&found, NONE, Packing::None, 16);
        assert_eq!((alone.tokens, rows), (9, 3));
        // A template that takes 2 tokens and 1 a turn leaves no two of them beside each other.
        let template = TemplateTokens {
            opening: 2.0,
            turn: 1.0,
        };
        let (row, rows) = RowLayout::of(&found, template, Packing::Pack, 16);
        assert_eq!((row.tokens, row.learned, rows), (13, 4, 3));
    }

    #[test]
    fn both_sides_of_a_pair_share_a_row() {
        let found = data(&[(2.0, 4.0), (2.0, 2.0), (2.0, 4.0), (2.0, 1.0)], true);
        let (row, rows) = RowLayout::of(&found, NONE, Packing::Pack, 16);
        assert_eq!((rows, row.tokens, row.learned), (2, 10, 6));
    }

    #[test]
    fn a_conversation_of_many_turns_is_cut_and_not_left_out() {
        // Five times 15 tokens of a question and 15 of its answer, in rows of 64.
        let talk = SampleSize {
            read: 15.0,
            learned: 75.0,
            between: 60.0,
            turns: 10,
            splittable: false,
        };
        let found = DataFacts::of_sizes(vec![talk; 40], 40, false);
        let (row, rows) = RowLayout::of(&found, NONE, Packing::Pack, 64);
        assert_eq!((rows, row.tokens), (40, 64));
        // Of what follows the first question 75 of 135 are answers.
        assert_eq!(row.learned, (49.0 * 75.0 / 135.0_f64).ceil() as usize);
    }

    #[test]
    fn what_is_large_is_laid_out_in_part() {
        let text = |tokens| SampleSize {
            learned: tokens,
            splittable: true,
            ..SampleSize::default()
        };
        let long = DataFacts::of_sizes([text(4e9)], 1, false);
        let (row, rows) = RowLayout::of(&long, NONE, Packing::Pack, 512);
        assert!((7_800_000..7_950_000).contains(&rows), "{rows}");
        assert!(row.tokens > 500);
        let many = DataFacts::of_sizes(vec![text(128.0); 100_000], 100_000, false);
        let (_, rows) = RowLayout::of(&many, NONE, Packing::Pack, 512);
        assert!((25_000..25_100).contains(&rows), "{rows}");
    }

    #[test]
    fn what_was_not_read_fills_its_rows() {
        let unread = DataFacts {
            bytes: 4000,
            ..DataFacts::default()
        };
        let found = RowLayout::of(&unread, NONE, Packing::Pack, 256);
        assert_eq!(found, (RowLayout::full(256), 4));
    }
}

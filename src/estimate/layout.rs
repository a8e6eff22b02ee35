//! How samples lie in rows: how full these are, how much of them is learned, how far back a token sees.

use datasets::packing::{Packing, PackingPlan, SampleShape};
use datasets::random::Random;
use datasets::template_tokens::TemplateTokens;

use super::data_facts::{DataFacts, SampleSize};
use super::work;

/// A row of training data, in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Positions, with those of padding.
    pub length: usize,
    pub tokens: usize,
    /// Tokens that count in the loss.
    pub learned: usize,
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
        let full = (
            Self::full(length),
            data.tokens().div_ceil(length.max(1) as u64),
        );
        if !(2..=1 << 30).contains(&length) {
            return full;
        }
        let shapes = data.sizes.iter().map(|size| size.shape(template));
        let shapes: Vec<SampleShape> = shapes.collect();
        let plan = laid(&shapes, data.pairs, packing, length);
        let rows = plan.rows();
        if rows == 0 {
            return full;
        }
        let (mut tokens, mut learned, mut seen) = (0_usize, 0_usize, 0.0);
        for piece in (0..rows).flat_map(|row| plan.row(row)) {
            let shape = shapes[piece.sample as usize];
            let predicted = piece.predicted();
            tokens += piece.length as usize;
            learned += predicted.end
                - predicted
                    .start
                    .max(shape.first_target as usize)
                    .min(predicted.end);
            seen += work::causal(piece.length as usize, piece.length as usize);
        }
        let layout = Self {
            length,
            tokens: tokens.div_ceil(rows).min(length),
            learned: learned.div_ceil(rows).clamp(1, length),
            segment: ((2.0 * seen / tokens.max(1) as f64 - 1.0).round() as usize).clamp(1, length),
        };
        // Of a large file only some samples were read.
        let read: f64 = data.sizes.iter().map(SampleSize::tokens).sum();
        let all = (data.tokens() as f64 / read.max(1.0)).max(1.0);
        (layout, (rows as f64 * all).ceil() as u64)
    }

    /// The mean of `rows` such rows in a batch of more.
    pub fn in_batch_of(self, rows: u64, batch: usize) -> Self {
        let share = (rows as f64 / batch.max(1) as f64).min(1.0);
        let part = |tokens: usize| (tokens as f64 * share).ceil() as usize;
        Self {
            tokens: part(self.tokens),
            learned: part(self.learned),
            ..self
        }
    }

    /// Queries and keys that meet in a row.
    pub fn seen(&self) -> f64 {
        work::causal(self.tokens, self.segment)
    }
}

fn laid(shapes: &[SampleShape], pairs: bool, packing: Packing, length: usize) -> PackingPlan {
    let mut random = Random::new(0, "plan", 0, "rows");
    let order = (0..shapes.len() as u32).step_by(1 + usize::from(pairs));
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
            splittable: false,
        });
        DataFacts {
            sizes: sizes.collect(),
            pairs,
            ..DataFacts::default()
        }
    }

    #[test]
    fn rows_are_as_full_as_samples_let_them_be() {
        // Of 10 and of 6 tokens in a row of 16; of 9 in one of their own.
        let found = data(&[(4.0, 6.0), (1.0, 5.0), (8.0, 1.0)], false);
        let (row, rows) = RowLayout::of(&found, NONE, Packing::Pack, 16);
        assert_eq!(rows, 2);
        // 25 tokens, of which 6 + 5 + 1 are learned; 55 + 21 + 45 meet.
        assert_eq!((row.tokens, row.learned, row.segment), (13, 6, 9));
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
    fn what_was_not_read_fills_its_rows() {
        let unread = DataFacts {
            bytes: 4000,
            ..DataFacts::default()
        };
        let found = RowLayout::of(&unread, NONE, Packing::Pack, 256);
        assert_eq!(found, (RowLayout::full(256), 4));
    }
}

//! Which pieces of which samples lie in which row: a pure function of lengths and masks, the sequence length and an
//! order.
//!
//! The first token of a piece is context only: nothing before it predicts it. So a piece that continues a sample begins
//! with the last token of the piece before, and every row holds at least one target.

mod pairs;
mod plan;
mod rows;

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use pairs::pair_lengths;
pub use plan::{PackingPlan, PackingReport};
pub(crate) use rows::best_fit;

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

#[cfg(test)]
mod tests;

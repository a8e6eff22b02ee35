//! The pieces that samples are cut into, in the order of the corpus: the same for every epoch, order and batch size.
//!
//! `pack` and `none` cut each sample by itself, so what stands before a token depends on the sample and the sequence length
//! alone. (`stream` cuts where the order of the epoch happens to.) That is what lets something be kept for each token.

use std::ops::Range;

use crate::batch::Batch;
use crate::mixture::Corpus;
use crate::packing::{Packing, Piece, best_fit};

/// All pieces of a corpus at one sequence length.
#[derive(Debug, Clone, PartialEq)]
pub struct PieceList {
    pieces: Vec<Piece>,
    /// The number of each sample's first piece, and the number of pieces.
    first: Vec<u32>,
    sequence_length: usize,
}

impl PieceList {
    pub fn new(corpus: &Corpus, sequence_length: usize) -> Self {
        let (mut pieces, mut first) = (Vec::new(), vec![0]);
        for (sample, shape) in corpus.shapes().iter().enumerate() {
            if shape.is_usable(sequence_length, Packing::Pack) {
                pieces.extend(shape.pieces(sample as u32, sequence_length as u32));
            }
            first.push(pieces.len() as u32);
        }
        Self {
            pieces,
            first,
            sequence_length,
        }
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// The number of a piece; `None` when the list holds no such piece.
    pub fn number(&self, piece: &Piece) -> Option<usize> {
        let sample = piece.sample as usize;
        let range = *self.first.get(sample)? as usize..*self.first.get(sample + 1)? as usize;
        let of_sample = self.pieces.get(range.clone())?;
        let at = of_sample.binary_search_by_key(&piece.start, |other| other.start);
        at.ok()
            .filter(|at| of_sample[*at] == *piece)
            .map(|at| range.start + at)
    }

    /// Piece `number` (below [`Self::len`]).
    pub fn piece(&self, number: usize) -> Piece {
        self.pieces[number]
    }

    /// How many targets piece `number` (below [`Self::len`]) holds.
    pub fn targets(&self, corpus: &Corpus, number: usize) -> usize {
        let piece = &self.pieces[number];
        let supervised = &corpus.sample(piece.sample as usize).supervised[piece.predicted()];
        supervised.iter().filter(|flag| **flag != 0).count()
    }

    /// Pieces `range` packed into batches of at most `rows` rows: a function of these arguments alone.
    pub fn batches(
        &self,
        corpus: &Corpus,
        range: Range<usize>,
        rows: usize,
        pad: u32,
    ) -> impl Iterator<Item = Batch> {
        let packed = best_fit(self.pieces[range].to_vec(), self.sequence_length as u32);
        let batches: Vec<Vec<Vec<Piece>>> = packed.chunks(rows).map(<[_]>::to_vec).collect();
        batches.into_iter().map(move |rows| {
            let mut batch = Batch::padding(rows.len(), self.sequence_length, pad);
            for (row, pieces) in rows.iter().enumerate() {
                batch.fill_row(row, pieces, corpus);
            }
            batch
        })
    }
}

//! Rows of tokens with the targets already shifted.

use crate::mixture::Corpus;
use crate::packing::Piece;

/// A batch, row-major: entry `row * length + t` of each list.
///
/// The shift happens here, once: `targets[t]` is the token that follows `ids[t]`, and `supervised[t]` says whether
/// predicting it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub rows: usize,
    pub length: usize,
    pub ids: Vec<u32>,
    /// The next token of the same segment; the padding id where there is none.
    pub targets: Vec<u32>,
    /// Whether the target counts; never at the last token of a segment, never in padding.
    pub supervised: Vec<bool>,
    /// Distance from the start of the segment.
    pub positions: Vec<u32>,
    /// 0 is padding; 1, 2, … count the pieces of samples in a row. Attention stays inside a segment. A piece that
    /// continues a sample begins with the last token of the piece before, so that its next token has a context.
    pub segments: Vec<u32>,
    /// Which tokens of the corpus stand where, in the order of the rows.
    pub pieces: Vec<PlacedPiece>,
}

/// A piece of a sample in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedPiece {
    /// The entry of the batch that holds its first token.
    pub at: usize,
    pub piece: Piece,
}

impl PlacedPiece {
    /// The entries of the batch that hold the piece.
    pub fn cells(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.piece.length as usize
    }
}

impl Batch {
    /// Rows that hold nothing but padding.
    pub fn padding(rows: usize, length: usize, pad: u32) -> Self {
        let size = rows * length;
        Self {
            rows,
            length,
            ids: vec![pad; size],
            targets: vec![pad; size],
            supervised: vec![false; size],
            positions: vec![0; size],
            segments: vec![0; size],
            pieces: Vec::new(),
        }
    }

    /// Writes pieces into a row that is still padding, from its start; they fit into the row together.
    pub(crate) fn fill_row(&mut self, row: usize, pieces: &[Piece], corpus: &Corpus) {
        let mut at = row * self.length;
        for (segment, piece) in pieces.iter().enumerate() {
            let sample = corpus.sample(piece.sample as usize);
            let range = piece.start as usize..(piece.start + piece.length) as usize;
            let (ids, supervised) = (&sample.ids[range.clone()], &sample.supervised[range]);
            let end = at + ids.len();
            self.ids[at..end].copy_from_slice(ids);
            self.targets[at..end - 1].copy_from_slice(&ids[1..]);
            for (t, target) in supervised[1..].iter().enumerate() {
                self.supervised[at + t] = *target != 0;
            }
            for (position, slot) in self.positions[at..end].iter_mut().enumerate() {
                *slot = position as u32;
            }
            self.segments[at..end].fill(segment as u32 + 1);
            self.pieces.push(PlacedPiece { at, piece: *piece });
            at = end;
        }
    }

    /// The entries that hold each segment, in their order.
    pub fn segment_cells(&self) -> Vec<std::ops::Range<usize>> {
        let mut found: Vec<std::ops::Range<usize>> = Vec::new();
        for (cell, &segment) in self.segments.iter().enumerate() {
            let goes_on = cell % self.length > 0 && self.segments[cell - 1] == segment;
            match found.last_mut() {
                _ if segment == 0 => {}
                Some(last) if goes_on => last.end = cell + 1,
                _ => found.push(cell..cell + 1),
            }
        }
        found
    }

    /// Targets that count.
    pub fn supervised_count(&self) -> usize {
        self.supervised.iter().filter(|s| **s).count()
    }

    /// Tokens that are not padding.
    pub fn token_count(&self) -> usize {
        self.segments.iter().filter(|s| **s != 0).count()
    }

    /// Rows `range` as a batch of their own, for accumulating gradients; the range is cut at the last row.
    pub fn rows_in(&self, range: std::ops::Range<usize>) -> Self {
        let (start, end) = (range.start.min(self.rows), range.end.min(self.rows));
        let end = end.max(start);
        let cells = start * self.length..end * self.length;
        Self {
            rows: end - start,
            length: self.length,
            ids: self.ids[cells.clone()].to_vec(),
            targets: self.targets[cells.clone()].to_vec(),
            supervised: self.supervised[cells.clone()].to_vec(),
            positions: self.positions[cells.clone()].to_vec(),
            segments: self.segments[cells.clone()].to_vec(),
            pieces: (self.pieces.iter())
                .filter(|placed| cells.contains(&placed.at))
                .map(|placed| PlacedPiece {
                    at: placed.at - cells.start,
                    ..*placed
                })
                .collect(),
        }
    }
}

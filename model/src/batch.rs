//! A batch of token sequences as the decoder reads it.

/// Row-major `[rows, length]` arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    pub rows: usize,
    pub length: usize,
    pub ids: Vec<u32>,
    /// Position of each token in its own sample.
    pub positions: Vec<u32>,
    /// Sample that a token belongs to, counted from 1 in each row; 0 is padding, which nobody sees.
    pub segments: Vec<u32>,
}

impl TokenBatch {
    /// One sequence, one row.
    pub fn single(ids: &[u32]) -> Self {
        Self {
            rows: 1,
            length: ids.len(),
            ids: ids.to_vec(),
            positions: (0..ids.len() as u32).collect(),
            segments: vec![1; ids.len()],
        }
    }

    pub fn tokens(&self) -> usize {
        self.rows * self.length
    }

    /// Some of the rows.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let tokens = range.start * self.length..range.end * self.length;
        Self {
            rows: range.len(),
            length: self.length,
            ids: self.ids[tokens.clone()].to_vec(),
            positions: self.positions[tokens.clone()].to_vec(),
            segments: self.segments[tokens].to_vec(),
        }
    }
}

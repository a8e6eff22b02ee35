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

    /// A row each, behind `cached` tokens that were read before. Short rows end in padding, which nothing before it sees.
    pub fn padded_behind(rows: &[&[u32]], cached: usize) -> Self {
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let mut batch = Self {
            rows: rows.len(),
            length,
            ids: vec![0; rows.len() * length],
            positions: (0..rows.len())
                .flat_map(|_| cached as u32..(cached + length) as u32)
                .collect(),
            segments: vec![0; rows.len() * length],
        };
        for (row, ids) in rows.iter().enumerate() {
            let cells = row * length..row * length + ids.len();
            batch.ids[cells.clone()].copy_from_slice(ids);
            batch.segments[cells].fill(1);
        }
        batch
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

//! A frozen matrix in the blocks of its file: its memory is the file's, not 4 bytes a value.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::ops::block_matrix::BlockMatrix;
use crate::ops::host::from_values;
use crate::ops::packed_product;
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::BlockError;

/// A matrix `[rows, columns]` in GGUF blocks along its rows, on the CPU. Clones share the blocks.
#[derive(Debug, Clone)]
pub struct Packed {
    /// As a [`crate::parameter::Parameter`]'s.
    pub name: String,
    rows: usize,
    columns: usize,
    kind: GgmlType,
    blocks: Arc<[u8]>,
}

impl Packed {
    /// # Errors
    /// When a row is not a whole number of blocks, or the bytes are not those of `rows` rows.
    pub fn new(
        name: impl Into<String>,
        [rows, columns]: [usize; 2],
        kind: GgmlType,
        blocks: impl Into<Arc<[u8]>>,
    ) -> Result<Self, BlockError> {
        let row_bytes = kind
            .bytes_of(columns)
            .ok_or(BlockError::PartialBlock { kind, row: columns })?;
        let blocks = blocks.into();
        let expected = row_bytes.saturating_mul(rows);
        if blocks.len() != expected {
            return Err(BlockError::ByteCount {
                kind,
                values: rows.saturating_mul(columns),
                expected,
                found: blocks.len(),
            });
        }
        Ok(Self {
            name: name.into(),
            rows,
            columns,
            kind,
            blocks,
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// What the blocks take in memory.
    pub fn bytes(&self) -> usize {
        self.blocks.len()
    }

    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    pub fn blocks(&self) -> BlockMatrix<'_> {
        BlockMatrix::new(self.kind, self.columns, &self.blocks)
    }

    /// Every value, row after row.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        self.blocks().dequantize_rows(0, &mut values);
        values
    }

    /// Rows `ids`: `[ids, columns]`, in `f32`.
    pub fn select_rows(&self, ids: &[u32]) -> Tensor<2> {
        let mut values = vec![0.0; ids.len() * self.columns];
        for (&id, row) in ids.iter().zip(values.chunks_mut(self.columns)) {
            self.blocks().dequantize_rows(id as usize, row);
        }
        from_values(values, [ids.len(), self.columns])
    }

    /// x·Wᵀ for `x` `[tokens, columns]`: `[tokens, rows]`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        packed_product::forward(self.blocks(), x)
    }

    /// dy·W for `dy` `[tokens, rows]`: `[tokens, columns]`.
    pub fn backward(&self, dy: &Tensor<2>) -> Tensor<2> {
        packed_product::backward(self.blocks(), dy)
    }
}

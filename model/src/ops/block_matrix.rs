//! A matrix that is only read, as its bytes: one view of packed and of plain values.

use std::ops::Range;

use crate::quant::block_type::GgmlType;
use crate::quant::blocks::dequantize;

/// A matrix `[rows, columns]` in blocks along its rows.
#[derive(Debug, Clone, Copy)]
pub struct BlockMatrix<'a> {
    kind: GgmlType,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> BlockMatrix<'a> {
    /// # Panics
    /// When `bytes` are not whole rows, or a row is not whole blocks.
    pub fn new(kind: GgmlType, columns: usize, bytes: &'a [u8]) -> Self {
        let row_bytes = kind.bytes_of(columns).expect("rows of whole blocks");
        assert!(bytes.len().is_multiple_of(row_bytes.max(1)), "whole rows");
        Self {
            kind,
            columns,
            row_bytes,
            bytes,
        }
    }

    /// A matrix of plain values.
    pub fn dense(columns: usize, values: &'a [f32]) -> Self {
        Self::new(GgmlType::F32, columns, bytemuck::cast_slice(values))
    }

    pub fn kind(&self) -> GgmlType {
        self.kind
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes.max(1)
    }

    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The blocks of some rows.
    pub fn bytes(&self, rows: Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// Writes the values of whole rows from `first`.
    pub fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        let count = values.len() / self.columns.max(1);
        let bytes = self.bytes(first..first + count);
        dequantize(self.kind, bytes, self.columns, values).expect("rows of whole blocks");
    }
}

//! A frozen matrix in quantised blocks: its memory is that of the blocks, not 4 bytes a value.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::ops::block_matrix::BlockMatrix;
use crate::ops::host::from_values;
use crate::ops::nf4_tensors::Nf4Tensors;
use crate::ops::packed_product::{self, Rows};
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::BlockError;
use crate::quant::nf4::{Nf4, Nf4Error};

/// A matrix `[rows, columns]` in blocks along its rows. Clones share the blocks.
#[derive(Debug, Clone)]
pub struct Packed {
    /// As a [`crate::parameter::Parameter`]'s.
    pub name: String,
    rows: usize,
    columns: usize,
    blocks: Blocks,
}

#[derive(Debug, Clone)]
enum Blocks {
    /// GGUF's, on the CPU.
    Ggml { kind: GgmlType, bytes: Arc<[u8]> },
    /// On the CPU.
    Nf4(Nf4),
    /// On any device, dequantised there by tensor operations.
    Nf4Tensors(Box<Nf4Tensors>),
}

impl Packed {
    /// # Errors
    /// When a row is not a whole number of blocks, or the bytes are not those of `rows` rows.
    pub fn new(
        name: impl Into<String>,
        [rows, columns]: [usize; 2],
        kind: GgmlType,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<Self, BlockError> {
        let row_bytes = kind
            .bytes_of(columns)
            .ok_or(BlockError::PartialBlock { kind, row: columns })?;
        let bytes = bytes.into();
        let expected = row_bytes.saturating_mul(rows);
        if bytes.len() != expected {
            return Err(BlockError::ByteCount {
                kind,
                values: rows.saturating_mul(columns),
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self {
            name: name.into(),
            rows,
            columns,
            blocks: Blocks::Ggml { kind, bytes },
        })
    }

    /// Quantises `values`, row after row, to NF4 on `device`.
    ///
    /// # Errors
    /// When a row is not a whole number of blocks, or a value is not finite.
    pub fn nf4(
        name: impl Into<String>,
        [rows, columns]: [usize; 2],
        values: &[f32],
        device: &Device,
    ) -> Result<Self, Nf4Error> {
        let quantized = Nf4::quantize(values, columns)?;
        Ok(Self {
            name: name.into(),
            rows,
            columns,
            blocks: match *device == Device::flex() {
                true => Blocks::Nf4(quantized),
                false => Blocks::Nf4Tensors(Box::new(Nf4Tensors::new(&quantized, device))),
            },
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn device(&self) -> Device {
        match &self.blocks {
            Blocks::Ggml { .. } | Blocks::Nf4(_) => Device::flex(),
            Blocks::Nf4Tensors(tensors) => tensors.device(),
        }
    }

    /// The type of GGUF's blocks; `None` for others.
    pub fn kind(&self) -> Option<GgmlType> {
        match &self.blocks {
            Blocks::Ggml { kind, .. } => Some(*kind),
            Blocks::Nf4(_) | Blocks::Nf4Tensors(_) => None,
        }
    }

    /// Bytes that the matrix takes.
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            Blocks::Ggml { bytes, .. } => bytes.len(),
            Blocks::Nf4(quantized) => quantized.bytes(),
            Blocks::Nf4Tensors(tensors) => tensors.bytes(),
        }
    }

    /// GGUF's blocks; `None` for others.
    pub fn blocks(&self) -> Option<BlockMatrix<'_>> {
        match &self.blocks {
            Blocks::Ggml { kind, bytes } => Some(BlockMatrix::new(*kind, self.columns, bytes)),
            Blocks::Nf4(_) | Blocks::Nf4Tensors(_) => None,
        }
    }

    /// Writes rows from `first` to `values`, which is a whole number of rows.
    pub fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        match &self.blocks {
            Blocks::Ggml { kind, bytes } => {
                BlockMatrix::new(*kind, self.columns, bytes).dequantize_rows(first, values);
            }
            Blocks::Nf4(quantized) => quantized.dequantize_rows(first, values),
            Blocks::Nf4Tensors(tensors) => {
                let all = tensors.values();
                values.copy_from_slice(&all[first * self.columns..][..values.len()]);
            }
        }
    }

    /// Every value, row after row.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        self.dequantize_rows(0, &mut values);
        values
    }

    /// Rows `ids`: `[ids, columns]`, in `f32`.
    pub fn select_rows(&self, ids: &[u32]) -> Tensor<2> {
        let mut values = vec![0.0; ids.len() * self.columns];
        for (&id, row) in ids.iter().zip(values.chunks_mut(self.columns)) {
            self.dequantize_rows(id as usize, row);
        }
        from_values(values, [ids.len(), self.columns])
    }

    /// What dequantises the rows on the CPU; `None` on other devices.
    pub fn read_rows<T>(&self, read: impl FnOnce(&dyn Rows) -> T) -> Option<T> {
        match &self.blocks {
            Blocks::Ggml { kind, bytes } => {
                Some(read(&BlockMatrix::new(*kind, self.columns, bytes)))
            }
            Blocks::Nf4(quantized) => Some(read(quantized)),
            Blocks::Nf4Tensors(_) => None,
        }
    }

    /// x·Wᵀ for `x` `[tokens, columns]`: `[tokens, rows]`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        match &self.blocks {
            Blocks::Ggml { kind, bytes } => {
                packed_product::forward(BlockMatrix::new(*kind, self.columns, bytes), x)
            }
            Blocks::Nf4(quantized) => packed_product::forward_panels(quantized, x),
            Blocks::Nf4Tensors(tensors) => {
                x.clone().matmul(tensors.dequantize(x.dtype()).transpose())
            }
        }
    }

    /// dy·W for `dy` `[tokens, rows]`: `[tokens, columns]`.
    pub fn backward(&self, dy: &Tensor<2>) -> Tensor<2> {
        match &self.blocks {
            Blocks::Ggml { kind, bytes } => {
                packed_product::backward(&BlockMatrix::new(*kind, self.columns, bytes), dy)
            }
            Blocks::Nf4(quantized) => packed_product::backward(quantized, dy),
            Blocks::Nf4Tensors(tensors) => dy.clone().matmul(tensors.dequantize(dy.dtype())),
        }
    }
}

//! The tensors of a checkpoint: as values, in the blocks of its file, or in NF4, with its adapter or without.

use std::sync::Arc;

use burn::tensor::Device;

use super::Checkpoint;
use crate::linear::Packed;
use crate::linear::lora::BaseForm;
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::dequantize_rows;
use crate::quant::nf4::{BLOCK, Nf4, Nf4Error};
use crate::weights::error::WeightsError;
use crate::weights::gguf::Gguf;
use crate::weights::model_files::ModelFiles;
use crate::weights::names;

/// A tensor's values, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedTensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

impl Checkpoint {
    /// The module whose matrix this is, if the adapter or its 4-bit base change it.
    fn changed_module<'n>(&self, hf_name: &'n str) -> Option<&'n str> {
        let adapter = self.adapter.as_ref()?;
        let module = hf_name.strip_suffix(".weight")?;
        let changes =
            adapter.adapts(module) || adapter.form() == BaseForm::Nf4 && names::is_linear(hf_name);
        changes.then_some(module)
    }

    /// A tensor as f32, with GGUF's permutation of rows undone and the adapter, if there is one, merged in: into the
    /// values that its base had in training, which an NF4 base takes from its codes.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] for a name that the configuration does not call for; in GPTQ's layout
    /// [`WeightsError::Malformed`] for groups that do not exist. Otherwise none once the checkpoint is open, unless the
    /// file changes.
    pub fn tensor(&self, hf_name: &str) -> Result<LoadedTensor, WeightsError> {
        let mut tensor = self.base_tensor(hf_name)?;
        if let (Some(adapter), Some(module)) = (&self.adapter, self.changed_module(hf_name)) {
            if adapter.form() == BaseForm::Nf4 {
                let columns = tensor.shape[1];
                let quantized = Nf4::quantize(&tensor.data, columns);
                let quantized = quantized.map_err(|error| self.not_nf4(hf_name, error))?;
                quantized.dequantize_rows(0, &mut tensor.data);
            }
            tensor.data = adapter.merge(module, tensor.data);
        }
        Ok(tensor)
    }

    /// The error that a tensor cannot be held in NF4.
    fn not_nf4(&self, hf_name: &str, error: Nf4Error) -> WeightsError {
        match error {
            Nf4Error::PartialBlock { row } => WeightsError::unsupported(
                &self.path,
                format!("tensor `{hf_name}` with NF4:"),
                format!("a row of {row} values"),
                format!("multiples of {BLOCK}\nhint: base = \"as_stored\" takes any row"),
            ),
            error => WeightsError::malformed(&self.path, format!("tensor `{hf_name}`: {error}")),
        }
    }

    /// A matrix without the adapter, quantised to NF4.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] when a row is no whole number of blocks; as [`Checkpoint::tensor`].
    pub fn base_nf4(&self, hf_name: &str, device: &Device) -> Result<Packed, WeightsError> {
        let tensor = self.base_tensor(hf_name)?;
        let shape = [tensor.shape[0], tensor.shape[1]];
        Packed::nf4(hf_name, shape, &tensor.data, device)
            .map_err(|error| self.not_nf4(hf_name, error))
    }

    /// As [`Checkpoint::tensor`], without the adapter.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn base_tensor(&self, hf_name: &str) -> Result<LoadedTensor, WeightsError> {
        let missing = || self.files.missing(&self.path, hf_name);
        let shape = self.expected.get(hf_name).ok_or_else(missing)?.clone();
        if let Some(layer) = self.files.gptq_layer(hf_name, &shape) {
            let data = layer.read()?.dequantize();
            return Ok(LoadedTensor { shape, data });
        }
        let data = match &self.files {
            ModelFiles::Gguf(gguf) => self.read_gguf(gguf, hf_name, &shape)?,
            ModelFiles::Safetensors(shards) => {
                let (file, tensor) = shards.find(hf_name).ok_or_else(missing)?;
                file.read(hf_name, tensor)?
            }
        };
        self.files.forget(hf_name);
        Ok(LoadedTensor { shape, data })
    }

    /// A matrix in the blocks of its file, rows in Hugging Face's order; `None` where the file has no such blocks
    /// or holds full `f32`, or an adapter changes it.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn packed(&self, hf_name: &str) -> Result<Option<Packed>, WeightsError> {
        match self.changed_module(hf_name) {
            Some(_) => Ok(None),
            None => self.base_packed(hf_name),
        }
    }

    /// As [`Checkpoint::packed`], without the adapter.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn base_packed(&self, hf_name: &str) -> Result<Option<Packed>, WeightsError> {
        let missing = || self.files.missing(&self.path, hf_name);
        let Some(&[rows, columns]) = self.expected.get(hf_name).map(Vec::as_slice) else {
            return Ok(None);
        };
        if self.files.gptq_layer(hf_name, &[rows, columns]).is_some() {
            return Ok(None);
        }
        let (kind, bytes) = match &self.files {
            ModelFiles::Gguf(gguf) => {
                let tensor = names::to_gguf(hf_name)
                    .and_then(|name| gguf.tensor(&name))
                    .ok_or_else(missing)?;
                (tensor.kind, gguf.tensor_bytes(tensor))
            }
            ModelFiles::Safetensors(shards) => {
                let (file, tensor) = shards.find(hf_name).ok_or_else(missing)?;
                let Some(kind) = tensor.ggml_type() else {
                    return Ok(None);
                };
                (kind, file.tensor_bytes(tensor))
            }
        };
        if kind == GgmlType::F32 {
            return Ok(None);
        }
        let row_bytes = bytes.len() / rows.max(1);
        let is_permuted = matches!(&self.files, ModelFiles::Gguf(_))
            && names::permuted_heads(&self.config, hf_name).is_some();
        let blocks: Arc<[u8]> = match is_permuted {
            false => bytes.into(),
            true => (0..rows)
                .flat_map(|row| {
                    let row = names::gguf_row(row, self.config.head_dim);
                    &bytes[row * row_bytes..][..row_bytes]
                })
                .copied()
                .collect(),
        };
        let packed = Packed::new(hf_name, [rows, columns], kind, blocks).map_err(|error| {
            WeightsError::malformed(&self.path, format!("tensor `{hf_name}`: {error}"))
        })?;
        self.files.forget(hf_name);
        Ok(Some(packed))
    }

    /// The blocks that [`Checkpoint::base_packed`] gives, without reading them; `None` where it gives none.
    pub fn base_block_type(&self, hf_name: &str) -> Option<GgmlType> {
        let shape = self
            .expected
            .get(hf_name)
            .filter(|shape| shape.len() == 2)?;
        if self.files.gptq_layer(hf_name, shape).is_some() {
            return None;
        }
        let kind = match &self.files {
            ModelFiles::Gguf(gguf) => gguf.tensor(&names::to_gguf(hf_name)?)?.kind,
            ModelFiles::Safetensors(shards) => shards.find(hf_name)?.1.ggml_type()?,
        };
        (kind != GgmlType::F32).then_some(kind)
    }

    fn read_gguf(
        &self,
        gguf: &Gguf,
        hf_name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, WeightsError> {
        let tensor = names::to_gguf(hf_name)
            .and_then(|name| gguf.tensor(&name))
            .ok_or_else(|| self.files.missing(&self.path, hf_name))?;
        let bytes = gguf.tensor_bytes(tensor);
        let heads = names::permuted_heads(&self.config, hf_name);
        let head_dim = self.config.head_dim;
        // A bias is a column: its elements are permuted as a matrix's rows are.
        let row = match (shape, heads) {
            ([_, columns], _) => *columns,
            ([_], Some(_)) => 1,
            _ => shape.last().copied().unwrap_or(1),
        };
        let mut values = vec![0.0; shape.iter().product()];
        dequantize_rows(tensor.kind, bytes, row, &mut values, |row| match heads {
            Some(_) => names::gguf_row(row, head_dim),
            None => row,
        })
        .map_err(|error| {
            WeightsError::malformed(&self.path, format!("tensor `{hf_name}`: {error}"))
        })?;
        Ok(values)
    }
}

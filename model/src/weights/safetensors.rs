//! Safetensors files, one or several with an index, read into f32.

use std::path::Path;

use rayon::prelude::*;

use super::error::WeightsError;
use super::mapped_file::MappedFile;
use super::safetensors_header;
pub use super::safetensors_header::StoredTensor;
use crate::quant::block_type::GgmlType;
use crate::quant::blocks::{BlockError, dequantize};

/// Types whose values become f32 without surprise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoredDtype {
    F64,
    /// Types that GGUF has, too.
    Ggml(GgmlType),
}

const ACCEPTED: &str = "F64, F32, F16, BF16";

/// Values that are read together.
const PIECE_VALUES: usize = 1 << 22;

fn convert(dtype: StoredDtype, bytes: &[u8], values: &mut [f32]) -> Result<(), BlockError> {
    match dtype {
        StoredDtype::F64 => {
            let (eights, _) = bytes.as_chunks::<8>();
            values
                .par_iter_mut()
                .with_min_len(1 << 16)
                .zip(eights)
                .for_each(|(value, eight)| {
                    *value = f64::from_le_bytes(*eight) as f32;
                });
            Ok(())
        }
        StoredDtype::Ggml(kind) => {
            // Rows are of no matter to types without blocks; these are for parallelism.
            let row = match values.len().is_multiple_of(1 << 12) {
                true => 1 << 12,
                false => values.len(),
            };
            dequantize(kind, bytes, row, values)
        }
    }
}

impl StoredDtype {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "F64" => Some(Self::F64),
            "F32" => Some(Self::Ggml(GgmlType::F32)),
            "F16" => Some(Self::Ggml(GgmlType::F16)),
            "BF16" => Some(Self::Ggml(GgmlType::Bf16)),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::Ggml(kind) => kind.block_bytes(),
        }
    }
}

impl StoredTensor {
    /// GGUF's name for the tensor's type, where it has one.
    pub(crate) fn ggml_type(&self) -> Option<GgmlType> {
        match StoredDtype::parse(&self.dtype)? {
            StoredDtype::Ggml(kind) => Some(kind),
            StoredDtype::F64 => None,
        }
    }
}

/// An open file whose header was checked against its length.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: MappedFile,
    tensors: Vec<(String, StoredTensor)>,
}

impl SafetensorsFile {
    /// # Errors
    /// [`WeightsError::Io`]; [`WeightsError::Malformed`] when the header is no header, or lies
    /// about sizes.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = MappedFile::open(path)?;
        let tensors = safetensors_header::read(file.bytes())
            .map_err(|problem| WeightsError::malformed(path, problem))?;
        Ok(Self { file, tensors })
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The whole file.
    pub(crate) fn file_bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        let at = self
            .tensors
            .binary_search_by(|(other, _)| other.as_str().cmp(name))
            .ok()?;
        self.tensors.get(at).map(|(_, tensor)| tensor)
    }

    /// A tensor's values as they lie in the file.
    pub fn tensor_bytes(&self, tensor: &StoredTensor) -> &[u8] {
        self.file
            .bytes()
            .get(tensor.bytes.clone())
            .unwrap_or_default()
    }

    /// Lets go of the memory of a tensor that has been copied.
    pub fn forget(&self, tensor: &StoredTensor) {
        self.file.forget(tensor.bytes.clone());
    }

    fn dtype(&self, name: &str, tensor: &StoredTensor) -> Result<StoredDtype, WeightsError> {
        StoredDtype::parse(&tensor.dtype).ok_or_else(|| {
            let what = format!("tensor `{name}`: type");
            WeightsError::unsupported(self.path(), what, &tensor.dtype, ACCEPTED)
        })
    }

    /// # Errors
    /// [`WeightsError::Unsupported`] if the tensor's type is not read.
    pub(crate) fn check_dtype(
        &self,
        name: &str,
        tensor: &StoredTensor,
    ) -> Result<(), WeightsError> {
        self.dtype(name, tensor).map(|_| ())
    }

    /// A tensor's values, row-major; f64 is rounded to nearest.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] if the tensor's type is not read.
    pub fn read(&self, name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, WeightsError> {
        let bytes = self.tensor_bytes(tensor);
        let dtype = self.dtype(name, tensor)?;
        let mut values = vec![0.0; bytes.len() / dtype.size()];
        let mut start = tensor.bytes.start;
        let pieces = bytes.chunks(PIECE_VALUES * dtype.size());
        for (bytes, values) in pieces.zip(values.chunks_mut(PIECE_VALUES)) {
            convert(dtype, bytes, values).map_err(|error| {
                WeightsError::malformed(self.path(), format!("tensor `{name}`: {error}"))
            })?;
            // Else the file would be held beside what was made of it.
            self.file.forget(start..start + bytes.len());
            start += bytes.len();
        }
        Ok(values)
    }
}

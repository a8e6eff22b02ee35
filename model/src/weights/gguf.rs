//! GGUF files, versions 2 and 3: metadata and where each tensor lies.
//!
//! Source: the GGUF specification of ggml. Magic `GGUF`, u32 version, u64 number of tensors, u64
//! number of metadata pairs, the pairs, the tensor headers, padding to `general.alignment`, the
//! data. All little endian.

use std::collections::HashMap;
use std::path::Path;

use super::error::WeightsError;
use super::gguf_cursor::Cursor;
use super::gguf_layout;
pub use super::gguf_layout::GgufTensor;
use super::gguf_value::{GgufArray, GgufValue};
use super::mapped_file::MappedFile;

const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file whose head was checked against its length.
#[derive(Debug)]
pub struct Gguf {
    file: MappedFile,
    metadata: HashMap<String, GgufValue>,
    tensors: HashMap<String, GgufTensor>,
}

impl Gguf {
    /// Opens and checks a file; reads none of its tensor data.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; [`WeightsError::Malformed`] when it is no GGUF file or contradicts
    /// itself; [`WeightsError::Unsupported`] for versions, tensor types and split files that are
    /// not read.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = MappedFile::open(path)?;
        let malformed = |problem: String| WeightsError::malformed(path, problem);
        let mut cursor = Cursor::new(file.bytes(), 0);

        if cursor.take(4).map_err(malformed)? != b"GGUF" {
            return Err(malformed(
                "does not begin with `GGUF`: no GGUF file".to_owned(),
            ));
        }
        let version = cursor.u32().map_err(malformed)?;
        if !(2..=3).contains(&version) {
            let found = match version.swap_bytes() {
                1..=3 => format!("{} in big-endian byte order", version.swap_bytes()),
                _ => version.to_string(),
            };
            return Err(WeightsError::unsupported(
                path,
                "GGUF version",
                found,
                "2, 3 (little endian)",
            ));
        }
        let tensor_count = cursor.u64().map_err(malformed)?;
        let pair_count = cursor.u64().map_err(malformed)?;

        let mut metadata = HashMap::new();
        for number in 0..pair_count {
            let (key, value) = read_pair(&mut cursor).map_err(|problem| {
                malformed(format!("metadata pair {number} of {pair_count}: {problem}"))
            })?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(malformed(format!("metadata key `{key}` appears twice")));
            }
        }

        let mut headers = Vec::new();
        for number in 0..tensor_count {
            headers.push(gguf_layout::read_header(&mut cursor).map_err(|problem| {
                malformed(format!(
                    "tensor header {number} of {tensor_count}: {problem}"
                ))
            })?);
        }

        let (head, length) = (cursor.position(), file.bytes().len());
        let mut gguf = Self {
            file,
            metadata,
            tensors: HashMap::new(),
        };
        gguf.refuse_split()?;
        gguf.tensors = gguf_layout::place(path, headers, head, gguf.alignment()?, length)?;
        Ok(gguf)
    }

    /// To what the data and each tensor in them are aligned, in bytes.
    fn alignment(&self) -> Result<usize, WeightsError> {
        let key = "general.alignment";
        let alignment = self.unsigned(key)?.unwrap_or(DEFAULT_ALIGNMENT);
        usize::try_from(alignment)
            .ok()
            .filter(|alignment| alignment.is_power_of_two())
            .ok_or_else(|| {
                WeightsError::key(self.path(), key, alignment.to_string(), "a power of two")
            })
    }

    /// Big models may come as several files that only make sense together.
    fn refuse_split(&self) -> Result<(), WeightsError> {
        match self.unsigned("split.count")? {
            Some(count) if count > 1 => Err(WeightsError::unsupported(
                self.path(),
                "a model split into",
                format!("{count} files"),
                "one file (join them with `llama-gguf-split --merge`)",
            )),
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The whole file.
    pub(crate) fn file_bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// Every tensor under GGUF's name, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// A tensor under GGUF's name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// A tensor's blocks as they lie in the file.
    pub fn tensor_bytes(&self, tensor: &GgufTensor) -> &[u8] {
        self.file
            .bytes()
            .get(tensor.bytes.clone())
            .unwrap_or_default()
    }

    /// All metadata, in the order of the keys.
    pub(crate) fn pairs(&self) -> Vec<(&str, &GgufValue)> {
        let mut pairs: Vec<_> = (self.metadata.iter())
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        pairs.sort_unstable_by_key(|(key, _)| *key);
        pairs
    }

    /// Lets go of the memory of a tensor that has been copied.
    pub fn forget(&self, tensor: &GgufTensor) {
        self.file.forget(tensor.bytes.clone());
    }

    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// An optional value that `read` accepts; another type is an error that says what was
    /// `expected`.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(WeightsError::key(
                self.path(),
                key,
                value.describe(),
                expected,
            )),
        }
    }

    /// A non-negative integer of any width; `None` if the key is absent.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, WeightsError> {
        self.typed(key, "a non-negative integer", GgufValue::as_u64)
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.typed(key, "a floating-point number", GgufValue::as_f64)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.typed(key, "true or false", GgufValue::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        self.typed(key, "a text", GgufValue::as_str)
    }

    /// Every element of an array, each converted by `read`, which hands back what it does not
    /// accept; `None` if the key is absent.
    pub(crate) fn array<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(GgufValue) -> Result<T, GgufValue>,
    ) -> Result<Option<Vec<T>>, WeightsError> {
        let array: Option<&GgufArray> = self.typed(key, expected, |value| match value {
            GgufValue::Array(array) => Some(array),
            _ => None,
        })?;
        let Some(array) = array else {
            return Ok(None);
        };
        let mut elements = Vec::new();
        for (number, value) in array.values(self.file.bytes()).enumerate() {
            let value = value.map_err(|problem| {
                WeightsError::malformed(
                    self.path(),
                    format!("key `{key}`, element {number}: {problem}"),
                )
            })?;
            elements.push(read(value).map_err(|value| {
                WeightsError::key(
                    self.path(),
                    &format!("{key}[{number}]"),
                    value.describe(),
                    expected,
                )
            })?);
        }
        Ok(Some(elements))
    }
}

fn read_pair(cursor: &mut Cursor) -> Result<(String, GgufValue), String> {
    let key = cursor.string()?.to_owned();
    let kind = cursor
        .u32()
        .map_err(|problem| format!("`{key}`: {problem}"))?;
    let value = GgufValue::read(cursor, kind).map_err(|problem| format!("`{key}`: {problem}"))?;
    Ok((key, value))
}

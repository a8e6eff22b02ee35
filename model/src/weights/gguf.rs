//! GGUF files, versions 2 and 3: metadata and where each tensor lies.
//!
//! Source: the GGUF specification of ggml. Magic `GGUF`, u32 version, u64 number of tensors, u64 number of metadata
//! pairs, the pairs, the tensor headers, padding to `general.alignment`, the data. All little endian.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;

use super::error::WeightsError;
use super::gguf_cursor::Cursor;
use super::gguf_value::{GgufArray, GgufValue};
use super::mapped_file::MappedFile;
use crate::quant::block_type::{GgmlType, ggml_type_name};

/// ggml's limit on the number of axes.
const MAX_AXES: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file whose head was checked against its length.
#[derive(Debug)]
pub struct Gguf {
    file: MappedFile,
    metadata: HashMap<String, GgufValue>,
    tensors: HashMap<String, GgufTensor>,
}

/// A tensor's header; its data were checked to lie within the file and to overlap with no other's.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    pub kind: GgmlType,
    /// Row-major, the contiguous axis last, as Hugging Face has it (the file has it reversed).
    pub shape: Vec<usize>,
    /// Where the data lie in the file.
    bytes: Range<usize>,
}

impl Gguf {
    /// Opens and checks a file; reads none of its tensor data.
    ///
    /// # Errors
    /// [`WeightsError::Io`]; [`WeightsError::Malformed`] when it is no GGUF file or contradicts itself;
    /// [`WeightsError::Unsupported`] for versions, tensor types and split files that are not read.
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
            headers.push(read_header(&mut cursor).map_err(|problem| {
                malformed(format!(
                    "tensor header {number} of {tensor_count}: {problem}"
                ))
            })?);
        }

        let head = cursor.position();
        let mut gguf = Self {
            file,
            metadata,
            tensors: HashMap::new(),
        };
        gguf.refuse_split()?;
        gguf.place(headers, head)?;
        Ok(gguf)
    }

    /// Finds each tensor's bytes. `head` is where the headers end.
    fn place(&mut self, headers: Vec<Header>, head: usize) -> Result<(), WeightsError> {
        let path = self.file.path();
        let length = self.file.bytes().len();
        let alignment = self
            .unsigned("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        let alignment = usize::try_from(alignment)
            .ok()
            .filter(|alignment| alignment.is_power_of_two())
            .ok_or_else(|| {
                let found = alignment.to_string();
                WeightsError::key(path, "general.alignment", found, "a power of two")
            })?;
        let data_start = head.checked_next_multiple_of(alignment);

        let mut ranges = Vec::with_capacity(headers.len());
        for header in headers {
            let name = header.name;
            let malformed = |problem: String| {
                WeightsError::malformed(path, format!("tensor `{name}`: {problem}"))
            };
            let kind = GgmlType::from_u32(header.kind).ok_or_else(|| {
                WeightsError::unsupported(
                    path,
                    format!("tensor `{name}`: type"),
                    ggml_type_name(header.kind),
                    GgmlType::accepted_names(),
                )
            })?;
            let row = header.shape.last().copied().unwrap_or(1);
            if !row.is_multiple_of(kind.block_len()) {
                return Err(malformed(format!(
                    "rows of {row} values are not whole {} blocks of {}",
                    kind.name(),
                    kind.block_len()
                )));
            }
            let size = header
                .shape
                .iter()
                .try_fold(1_usize, |product, axis| product.checked_mul(*axis))
                .and_then(|values| kind.bytes_of(values))
                .ok_or_else(|| malformed(format!("shape {:?} overflows", header.shape)))?;
            let offset = usize::try_from(header.offset).ok();
            if !offset.is_some_and(|offset| offset.is_multiple_of(alignment)) {
                return Err(malformed(format!(
                    "offset {} is not a multiple of the alignment {alignment}",
                    header.offset
                )));
            }
            let start = offset.and_then(|offset| data_start?.checked_add(offset));
            let end = start.and_then(|start| start.checked_add(size));
            let (Some(start), Some(end)) = (start, end.filter(|end| *end <= length)) else {
                return Err(malformed(format!(
                    "{size} bytes at offset {} of the data go beyond the end of the file ({length} bytes): truncated or corrupt",
                    header.offset
                )));
            };
            ranges.push((start, end, name.clone()));
            let tensor = GgufTensor {
                kind,
                shape: header.shape,
                bytes: start..end,
            };
            match self.tensors.entry(name) {
                Entry::Vacant(entry) => entry.insert(tensor),
                Entry::Occupied(entry) => {
                    let problem = format!("tensor `{}` appears twice", entry.key());
                    return Err(WeightsError::malformed(path, problem));
                }
            };
        }

        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && start < end
            {
                let problem = format!("the data of tensors `{first}` and `{second}` overlap");
                return Err(WeightsError::malformed(path, problem));
            }
        }
        Ok(())
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

    pub fn value(&self, key: &str) -> Option<&GgufValue> {
        self.metadata.get(key)
    }

    /// An optional value that `read` accepts; another type is an error that says what was `expected`.
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

    /// Every element of an array, each converted by `read`, which hands back what it does not accept;
    /// `None` if the key is absent.
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

/// A tensor header as the file has it, the shape already row-major.
struct Header {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

fn read_pair(cursor: &mut Cursor) -> Result<(String, GgufValue), String> {
    let key = cursor.string()?.to_owned();
    let kind = cursor
        .u32()
        .map_err(|problem| format!("`{key}`: {problem}"))?;
    let value = GgufValue::read(cursor, kind).map_err(|problem| format!("`{key}`: {problem}"))?;
    Ok((key, value))
}

fn read_header(cursor: &mut Cursor) -> Result<Header, String> {
    let name = cursor.string()?.to_owned();
    let named = |problem: String| format!("`{name}`: {problem}");
    let axes = cursor.u32().map_err(named)?;
    if !(1..=MAX_AXES).contains(&axes) {
        return Err(named(format!("{axes} axes, expected 1 to {MAX_AXES}")));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let length = cursor.u64().map_err(named)?;
        let length = usize::try_from(length).ok().filter(|length| *length > 0);
        shape.push(length.ok_or_else(|| named("an axis has an impossible length".to_owned()))?);
    }
    shape.reverse();
    let kind = cursor.u32().map_err(named)?;
    let offset = cursor.u64().map_err(named)?;
    Ok(Header {
        name,
        shape,
        kind,
        offset,
    })
}

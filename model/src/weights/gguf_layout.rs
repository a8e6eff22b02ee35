//! Tensor headers of GGUF, and where their data lie.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::error::WeightsError;
use super::gguf_cursor::Cursor;
use crate::quant::block_type::{GgmlType, ggml_type_name};

/// ggml's limit on the number of axes.
const MAX_AXES: u32 = 4;

/// A tensor's header; its data were checked to lie within the file and to overlap with no other's.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    pub kind: GgmlType,
    /// Row-major, the contiguous axis last, as Hugging Face has it (the file has it reversed).
    pub shape: Vec<usize>,
    /// Where the data lie in the file.
    pub(crate) bytes: Range<usize>,
}

/// A tensor header as the file has it, the shape already row-major.
pub(crate) struct Header {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    /// From where the data begin.
    offset: u64,
}

/// Name, number of axes, their lengths, type and offset.
pub(crate) fn read_header(cursor: &mut Cursor) -> Result<Header, String> {
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

/// Finds each tensor's bytes. `head` is where the headers end, `length` the file's.
///
/// # Errors
/// For types that are not read, and data that are out of the file, out of line or not one tensor's
/// alone.
pub(crate) fn place(
    path: &Path,
    headers: Vec<Header>,
    head: usize,
    alignment: usize,
    length: usize,
) -> Result<HashMap<String, GgufTensor>, WeightsError> {
    let data_start = head.checked_next_multiple_of(alignment);
    let mut tensors = HashMap::with_capacity(headers.len());
    let mut ranges = Vec::with_capacity(headers.len());
    for header in headers {
        let kind = GgmlType::from_u32(header.kind).ok_or_else(|| {
            WeightsError::unsupported(
                path,
                format!("tensor `{}`: type", header.name),
                ggml_type_name(header.kind),
                GgmlType::accepted_names(),
            )
        })?;
        let bytes = place_one(&header, kind, data_start, alignment, length).map_err(|problem| {
            WeightsError::malformed(path, format!("tensor `{}`: {problem}", header.name))
        })?;
        ranges.push((bytes.start, bytes.end, header.name.clone()));
        let tensor = GgufTensor {
            kind,
            shape: header.shape,
            bytes,
        };
        if tensors.insert(header.name.clone(), tensor).is_some() {
            let problem = format!("tensor `{}` appears twice", header.name);
            return Err(WeightsError::malformed(path, problem));
        }
    }

    // No tensor is empty: if any two overlap, two neighbours do.
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            let problem = format!("the data of tensors `{first}` and `{second}` overlap");
            return Err(WeightsError::malformed(path, problem));
        }
    }
    Ok(tensors)
}

/// Where a tensor's data lie in the file.
fn place_one(
    header: &Header,
    kind: GgmlType,
    data_start: Option<usize>,
    alignment: usize,
    length: usize,
) -> Result<Range<usize>, String> {
    let row = header.shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block_len()) {
        let (name, block) = (kind.name(), kind.block_len());
        return Err(format!(
            "rows of {row} values are not whole {name} blocks of {block}"
        ));
    }
    let size = header
        .shape
        .iter()
        .try_fold(1_usize, |product, axis| product.checked_mul(*axis))
        .and_then(|values| kind.bytes_of(values))
        .ok_or_else(|| format!("shape {:?} overflows", header.shape))?;
    let offset = usize::try_from(header.offset).ok();
    if !offset.is_some_and(|offset| offset.is_multiple_of(alignment)) {
        let offset = header.offset;
        return Err(format!(
            "offset {offset} is not a multiple of the alignment {alignment}"
        ));
    }
    let start = offset.and_then(|offset| data_start?.checked_add(offset));
    let end = start.and_then(|start| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end)) if end <= length => Ok(start..end),
        _ => Err(format!(
            "{size} bytes at offset {} of the data go beyond the end of the file ({length} bytes): truncated or corrupt",
            header.offset
        )),
    }
}

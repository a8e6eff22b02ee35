//! The header of a safetensors file, checked against the file.
//!
//! Source: the safetensors format. u64 length of the header (little endian), the header as JSON
//! (name → `dtype`, `shape`, `data_offsets`), then the data, which the offsets cover without holes.
//! The header is checked here rather than by the `safetensors` crate, whose errors do not say which
//! tensor is wrong.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor's header.
#[derive(Debug)]
pub struct StoredTensor {
    /// By the name in the file: types that cannot be read are no error until they are.
    pub(crate) dtype: String,
    pub shape: Vec<usize>,
    /// Where the data lie in the file.
    pub(crate) bytes: Range<usize>,
}

/// Reads the header of a whole file: every tensor, sorted by name.
///
/// # Errors
/// What is wrong, with the tensor's name, without the file's.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(String, StoredTensor)>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!(
            "is {} bytes long, too short for a safetensors file",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "claims a header of {length} bytes: no safetensors file, or corrupt"
        ));
    }
    // At most 100 MB, which every usize holds.
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        let problem = format!(
            "claims a header of {length} bytes, but has {}: truncated or corrupt",
            rest.len()
        );
        return Err(problem);
    };
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| format!("the header cannot be read: {error}"))?;

    let data_start = bytes.len() - data.len();
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, info) in header.tensors {
        let tensor = place(&info, data_start, data.len())
            .map_err(|problem| format!("tensor `{name}`: {problem}"))?;
        tensors.push((name, tensor));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for pair in tensors.windows(2) {
        if let [(first, _), (second, _)] = pair
            && first == second
        {
            return Err(format!("tensor `{first}` appears twice"));
        }
    }
    check_cover(&tensors, data_start, bytes.len())?;
    Ok(tensors)
}

/// Bits of a value of a type, by its name in the file; those that are not read are measured, too.
fn bits_of(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "F8_E5M2FNUZ" | "F8_E4M3FNUZ" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}

/// Checks a tensor's offsets against its shape and the data, `data_length` bytes from `data_start`
/// of the file on.
fn place(info: &TensorInfo, data_start: usize, data_length: usize) -> Result<StoredTensor, String> {
    let [start, end] = info.data_offsets;
    if start > end || end > data_length as u64 {
        return Err(format!(
            "bytes {start} to {end} of the data, which are {data_length} bytes long: truncated or corrupt"
        ));
    }
    let shape: Option<Vec<usize>> = info
        .shape
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect();
    let values = shape.as_ref().and_then(|shape| {
        shape
            .iter()
            .try_fold(1_usize, |product, axis| product.checked_mul(*axis))
    });
    let (Some(shape), Some(values)) = (shape, values) else {
        return Err(format!("shape {:?} overflows", info.shape));
    };
    if let Some(bits) = bits_of(&info.dtype) {
        let expected = values.checked_mul(bits).map(|bits| bits.div_ceil(8) as u64);
        if expected != Some(end - start) {
            return Err(format!(
                "{} bytes of data for {values} values of type {}",
                end - start,
                info.dtype
            ));
        }
    }
    // Both are at most the data's length, which is a usize.
    Ok(StoredTensor {
        dtype: info.dtype.clone(),
        shape,
        bytes: data_start + start as usize..data_start + end as usize,
    })
}

/// The tensors cover the data, each byte once.
fn check_cover(tensors: &[(String, StoredTensor)], start: usize, end: usize) -> Result<(), String> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by_key(|(_, tensor)| (tensor.bytes.start, tensor.bytes.end));
    let (mut position, mut previous) = (start, None);
    for (name, tensor) in ordered {
        if tensor.bytes.start < position {
            let previous = previous.unwrap_or("the header");
            return Err(format!(
                "the data of tensors `{previous}` and `{name}` overlap"
            ));
        }
        if tensor.bytes.start > position {
            return Err(format!(
                "{} bytes before tensor `{name}` belong to none",
                tensor.bytes.start - position
            ));
        }
        position = tensor.bytes.end;
        previous = Some(name.as_str());
    }
    if position != end {
        return Err(format!(
            "the last {} bytes belong to no tensor",
            end - position
        ));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in order, so that a name that appears twice is seen.
struct Header {
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object with an entry for each tensor")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let info = map.next_value().map_err(|error| {
                            serde::de::Error::custom(format!("tensor `{name}`: {error}"))
                        })?;
                        tensors.push((name, info));
                    }
                }
                Ok(Header { tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

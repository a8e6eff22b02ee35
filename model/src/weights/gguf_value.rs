//! Metadata values of GGUF.
//!
//! Arrays stay where they are in the file and are decoded on demand: a vocabulary has hundreds of
//! thousands of entries that most callers never look at.

use std::ops::Range;

use super::gguf_cursor::Cursor;

/// Arrays within arrays are legal; nothing uses more than two levels.
const MAX_ARRAY_DEPTH: u32 = 4;

/// A value of the metadata section. Numbers keep their width in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array that was checked to lie within the file and is decoded on demand.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufArray {
    /// Type number of the elements.
    element: u32,
    count: u64,
    /// Where the elements lie in the file.
    bytes: Range<usize>,
}

impl GgufValue {
    /// Reads a value of the type with this number.
    pub(crate) fn read(cursor: &mut Cursor, kind: u32) -> Result<Self, String> {
        Ok(match kind {
            0 => GgufValue::U8(cursor.u8()?),
            1 => GgufValue::I8(cursor.u8()? as i8),
            2 => GgufValue::U16(cursor.u16()?),
            3 => GgufValue::I16(cursor.u16()? as i16),
            4 => GgufValue::U32(cursor.u32()?),
            5 => GgufValue::I32(cursor.u32()? as i32),
            6 => GgufValue::F32(f32::from_bits(cursor.u32()?)),
            7 => GgufValue::Bool(match cursor.u8()? {
                0 => false,
                1 => true,
                other => return Err(format!("a truth value is {other}, neither 0 nor 1")),
            }),
            8 => GgufValue::String(cursor.string()?.to_owned()),
            9 => GgufValue::Array(GgufArray::read(cursor, 1)?),
            10 => GgufValue::U64(cursor.u64()?),
            11 => GgufValue::I64(cursor.u64()? as i64),
            12 => GgufValue::F64(f64::from_bits(cursor.u64()?)),
            other => return Err(format!("value type {other} does not exist (0 to 12 do)")),
        })
    }

    /// Appends the value as a file has it, and gives the number of its type. `file` is what it was read from.
    pub(crate) fn encode(&self, file: &[u8], bytes: &mut Vec<u8>) -> u32 {
        let mut number = |kind: u32, value: &[u8]| {
            bytes.extend(value);
            kind
        };
        match self {
            GgufValue::U8(value) => number(0, &[*value]),
            GgufValue::I8(value) => number(1, &value.to_le_bytes()),
            GgufValue::U16(value) => number(2, &value.to_le_bytes()),
            GgufValue::I16(value) => number(3, &value.to_le_bytes()),
            GgufValue::U32(value) => number(4, &value.to_le_bytes()),
            GgufValue::I32(value) => number(5, &value.to_le_bytes()),
            GgufValue::F32(value) => number(6, &value.to_le_bytes()),
            GgufValue::Bool(value) => number(7, &[u8::from(*value)]),
            GgufValue::String(text) => {
                number(8, &(text.len() as u64).to_le_bytes());
                number(8, text.as_bytes())
            }
            GgufValue::Array(array) => {
                number(9, &array.element.to_le_bytes());
                number(9, &array.count.to_le_bytes());
                number(9, file.get(array.bytes.clone()).unwrap_or_default())
            }
            GgufValue::U64(value) => number(10, &value.to_le_bytes()),
            GgufValue::I64(value) => number(11, &value.to_le_bytes()),
            GgufValue::F64(value) => number(12, &value.to_le_bytes()),
        }
    }

    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::U8(value) => Some(value.into()),
            GgufValue::U16(value) => Some(value.into()),
            GgufValue::U32(value) => Some(value.into()),
            GgufValue::U64(value) => Some(value),
            GgufValue::I8(value) => value.try_into().ok(),
            GgufValue::I16(value) => value.try_into().ok(),
            GgufValue::I32(value) => value.try_into().ok(),
            GgufValue::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// Any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            GgufValue::I8(value) => Some(value.into()),
            GgufValue::I16(value) => Some(value.into()),
            GgufValue::I32(value) => Some(value.into()),
            GgufValue::I64(value) => Some(value),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// A floating-point number. f32 is widened through its shortest decimal form: the 1e-5 that
    /// somebody stored as f32 is 1e-5 again, not 9.999999747378752e-6.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            GgufValue::F32(value) => value.to_string().parse().ok(),
            GgufValue::F64(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            GgufValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            GgufValue::String(value) => Some(value),
            _ => None,
        }
    }

    /// What this is, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            GgufValue::String(text) => {
                let head: String = text.chars().take(40).collect();
                let dots = if head.len() < text.len() { "…" } else { "" };
                format!("the text {head:?}{dots}")
            }
            GgufValue::Array(array) => format!("an array of {} elements", array.count),
            GgufValue::Bool(value) => format!("{value}"),
            GgufValue::F32(value) => format!("the floating-point number {value}"),
            GgufValue::F64(value) => format!("the floating-point number {value}"),
            integer => match integer.as_i64() {
                Some(value) => format!("the integer {value}"),
                None => "an integer beyond 64 signed bits".to_owned(),
            },
        }
    }
}

impl GgufArray {
    /// Passes over an array, checking that each element lies within the file.
    fn read(cursor: &mut Cursor, depth: u32) -> Result<Self, String> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(format!(
                "arrays are nested more than {MAX_ARRAY_DEPTH} deep"
            ));
        }
        let element = cursor.u32()?;
        let count = cursor.u64()?;
        let start = cursor.position();
        let width = match element {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    cursor.string()?;
                }
                0
            }
            9 => {
                for _ in 0..count {
                    GgufArray::read(cursor, depth + 1)?;
                }
                0
            }
            other => {
                return Err(format!(
                    "array element type {other} does not exist (0 to 12 do)"
                ));
            }
        };
        let bytes = u64::checked_mul(count, width)
            .ok_or_else(|| format!("an array claims {count} elements of {width} bytes"))?;
        cursor.take(bytes)?;
        Ok(Self {
            element,
            count,
            bytes: start..cursor.position(),
        })
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Decodes the elements one by one from `file`, the bytes that the array was read from.
    pub(crate) fn values<'a>(
        &self,
        file: &'a [u8],
    ) -> impl Iterator<Item = Result<GgufValue, String>> + 'a {
        let element = self.element;
        let mut cursor = Cursor::new(
            file.get(..self.bytes.end).unwrap_or_default(),
            self.bytes.start,
        );
        (0..self.count).map(move |_| GgufValue::read(&mut cursor, element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: u32, count: u64, rest: &[u8]) -> Vec<u8> {
        let mut bytes = element.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn arrays_are_decoded_on_demand() {
        let bytes = array(5, 2, &[255, 255, 255, 255, 7, 0, 0, 0]);
        let GgufValue::Array(array) = GgufValue::read(&mut Cursor::new(&bytes, 0), 9).unwrap()
        else {
            panic!("not an array");
        };
        let values: Vec<_> = array.values(&bytes).map(|v| v.unwrap().as_i64()).collect();
        assert_eq!(values, [Some(-1), Some(7)]);
    }

    #[test]
    fn lying_and_bottomless_arrays_are_errors() {
        let read = |bytes: &[u8]| GgufValue::read(&mut Cursor::new(bytes, 0), 9).unwrap_err();
        assert!(read(&array(12, u64::MAX, &[])).contains("claims"));
        assert!(read(&array(0, u64::MAX, &[])).contains("truncated"));
        assert!(read(&array(8, u64::MAX, &[0; 16])).contains("truncated"));
        assert!(read(&array(13, 0, &[])).contains("type 13"));
        let mut nested = array(0, 0, &[]);
        for _ in 0..MAX_ARRAY_DEPTH {
            nested = array(9, 1, &nested);
        }
        assert!(read(&nested).contains("nested"));
    }

    #[test]
    fn f32_is_widened_through_its_decimal_form() {
        assert_eq!(GgufValue::F32(1e-5).as_f64(), Some(1e-5));
        assert_eq!(GgufValue::F32(1e6).as_f64(), Some(1e6));
        assert!(GgufValue::F32(f32::NAN).as_f64().unwrap().is_nan());
        assert_eq!(GgufValue::U32(1).as_f64(), None);
    }
}

//! Little-endian reading from a slice that never goes beyond its end.

/// A position in the head of a GGUF file. Problems are texts: the caller adds file and key.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count))
            .ok_or_else(|| {
                format!(
                    "{count} bytes are called for at offset {}, but the file ends {} bytes later: truncated or corrupt",
                    self.position,
                    rest.len()
                )
            })?;
        self.position += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N as u64)?;
        // `take` gives exactly N bytes.
        Ok(std::array::from_fn(|i| taken[i]))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length as u64, then that many bytes of UTF-8.
    pub(crate) fn string(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let at = self.position;
        std::str::from_utf8(self.take(length)?)
            .map_err(|error| format!("the text at offset {at} is not UTF-8: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let mut cursor = Cursor::new(&[1, 0, 0, 0, 9], 0);
        assert_eq!(cursor.u32(), Ok(1));
        assert!(cursor.u16().unwrap_err().contains("at offset 4"));
        assert_eq!(cursor.u8(), Ok(9));
        assert!(cursor.take(u64::MAX).is_err());
        assert_eq!(cursor.take(0), Ok(&[][..]));
    }

    #[test]
    fn strings_have_an_honest_length_and_are_utf8() {
        let mut bytes = 2_u64.to_le_bytes().to_vec();
        bytes.extend("hé".as_bytes());
        assert!(
            Cursor::new(&bytes, 0)
                .string()
                .unwrap_err()
                .contains("UTF-8")
        );
        bytes[0] = 3;
        assert_eq!(Cursor::new(&bytes, 0).string(), Ok("hé"));
        bytes[7] = 255;
        assert!(
            Cursor::new(&bytes, 0)
                .string()
                .unwrap_err()
                .contains("truncated")
        );
    }
}

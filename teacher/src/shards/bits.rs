//! Numbers as runs of bits, highest bit first.

/// Longest run that is written at once.
const MOST_BITS: u32 = 32;

/// Appends bits to bytes.
pub struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    pending: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self {
            bytes,
            pending: 0,
            count: 0,
        }
    }

    /// The lowest `bits` bits of `value`, 32 at most.
    pub fn put(&mut self, value: u32, bits: u32) {
        debug_assert!(bits <= MOST_BITS);
        let value = u64::from(value) & ((1 << bits) - 1);
        self.pending = (self.pending << bits) | value;
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            self.bytes.push((self.pending >> self.count) as u8);
        }
    }

    /// Exponential-Golomb code of this order: short for small values, about twice the digits for large ones.
    pub fn put_golomb(&mut self, value: u32, order: u32) {
        let high = (value >> order) + 1;
        let digits = high.ilog2();
        self.put(0, digits);
        self.put(high, digits + 1);
        self.put(value, order);
    }

    /// Fills the last byte up with zeros.
    pub fn finish(mut self) {
        let missing = (8 - self.count % 8) % 8;
        self.put(0, missing);
    }
}

/// Reads bits from the start of bytes.
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits that were read.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// At least 57 bits, those beyond the end 0, from the highest on.
    #[inline]
    fn ahead(&self) -> u64 {
        let byte = self.at / 8;
        let word = match self.bytes.get(byte..byte + 8) {
            Some(eight) => eight.try_into().unwrap_or_default(),
            None => {
                let rest = self.bytes.get(byte..).unwrap_or_default();
                let mut padded = [0; 8];
                padded[..rest.len()].copy_from_slice(rest);
                padded
            }
        };
        u64::from_be_bytes(word) << (self.at % 8)
    }

    /// Moves on; `None` beyond the end.
    #[inline]
    fn skip(&mut self, bits: u32) -> Option<()> {
        self.at += bits as usize;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// `bits` bits, 32 at most; `None` beyond the end.
    #[inline]
    pub fn take(&mut self, bits: u32) -> Option<u32> {
        let value = match bits {
            0 => 0,
            _ => self.ahead() >> (64 - bits),
        };
        self.skip(bits)?;
        Some(value as u32)
    }

    /// What [`BitWriter::put_golomb`] wrote; `None` beyond the end and for what it cannot have written.
    #[inline]
    pub fn take_golomb(&mut self, order: u32) -> Option<u32> {
        let digits = self.ahead().leading_zeros();
        if digits >= MOST_BITS {
            return None;
        }
        self.skip(digits)?;
        let high = self.take(digits + 1)? - 1;
        let low = self.take(order)?;
        high.checked_mul(1 << order)?.checked_add(low)
    }

    /// Bytes that were begun.
    pub fn bytes_read(&self) -> usize {
        self.at.div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for order in [0, 3, 9] {
            let values: Vec<u32> = (0..2000).map(|i: u32| i.pow(2) % 200_003).collect();
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            for (i, value) in values.iter().enumerate() {
                writer.put_golomb(*value, order);
                writer.put(*value, i as u32 % 17);
            }
            writer.finish();
            let mut reader = BitReader::new(&bytes);
            for (i, value) in values.iter().enumerate() {
                let bits = i as u32 % 17;
                assert_eq!(reader.take_golomb(order), Some(*value));
                assert_eq!(reader.take(bits), Some(value & ((1 << bits) - 1)));
            }
            assert_eq!(reader.bytes_read(), bytes.len());
            assert_eq!(reader.take_golomb(order), None);
        }
    }

    #[test]
    fn by_hand() {
        let mut bytes = Vec::new();
        let mut writer = BitWriter::new(&mut bytes);
        // 0 → 1, 1 → 010, 4 → 00101: 1 010 0010 1 and seven zeros.
        for value in [0, 1, 4] {
            writer.put_golomb(value, 0);
        }
        writer.finish();
        assert_eq!(bytes, [0b1010_0010, 0b1000_0000]);
    }

    #[test]
    fn garbage_ends() {
        assert_eq!(BitReader::new(&[0; 40]).take_golomb(3), None);
        assert_eq!(BitReader::new(&[]).take(1), None);
        assert_eq!(BitReader::new(&[]).take(0), Some(0));
    }
}

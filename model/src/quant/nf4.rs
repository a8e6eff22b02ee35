//! NF4 with double quantisation (QLoRA, arXiv 2305.14314): blocks of 64 values as 4-bit normal floats, their largest
//! magnitudes as 8-bit dynamic floats. Codes and packing are those of bitsandbytes 0.50.

use std::sync::{Arc, LazyLock};

use rayon::prelude::*;
use thiserror::Error;

/// Values that share a scale.
pub const BLOCK: usize = 64;
/// Scales that share a range.
pub const SCALE_BLOCK: usize = 256;

/// What the codes 0 to 15 stand for, relative to the largest magnitude of the block.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// What the codes of scales stand for: a sign, a decimal exponent and as many bits of fraction as are left
/// (arXiv 1511.04561), rising. Every operation rounds to `f32` as in PyTorch, products and sums of a step as one.
pub static DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = vec![0.0, 1.0];
    for exponent in 0..7 {
        let steps = 1 << exponent;
        let magnitude = 10_f64.powi(exponent - 6) as f32;
        let bounds: Vec<f32> = (0..=steps).map(|at| between(at, steps)).collect();
        for pair in bounds.windows(2) {
            let value = magnitude * ((pair[0] + pair[1]) / 2.0);
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("2 + 2 · (2⁷ − 1) values")
});

/// Point `at` of `steps` between 0.1 and 1, counted from the nearer end.
fn between(at: i32, steps: i32) -> f32 {
    let (start, end) = (0.1_f32, 1.0_f32);
    let step = f64::from((end - start) / steps as f32);
    match at < (steps + 1) / 2 {
        true => (f64::from(start) + step * f64::from(at)) as f32,
        false => (f64::from(end) - step * f64::from(steps - at)) as f32,
    }
}

/// The two values of each byte.
static PAIRS: LazyLock<[[f32; 2]; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| [LEVELS[byte >> 4], LEVELS[byte & 15]]));

#[derive(Debug, Error, PartialEq)]
pub enum Nf4Error {
    #[error("a row of {row} values is not a whole number of NF4 blocks of {BLOCK}")]
    PartialBlock { row: usize },
    #[error("{values} values do not form whole rows of {row}")]
    PartialRow { values: usize, row: usize },
    #[error("value {index} is {value}")]
    NotFinite { index: usize, value: f32 },
}

/// A quantised matrix: 4.127 bits a value. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct Nf4 {
    columns: usize,
    /// Two values a byte, the first in the high half.
    codes: Arc<[u8]>,
    /// One for each block, by [`DYNAMIC_MAP`].
    scales: Arc<[u8]>,
    /// The largest magnitude of each [`SCALE_BLOCK`] scales, less `offset`.
    ranges: Arc<[f32]>,
    /// The mean of the scales.
    offset: f32,
}

impl Nf4 {
    /// Quantises rows of `columns` values.
    ///
    /// # Errors
    /// When a row is not a whole number of blocks, or a value is not finite.
    pub fn quantize(values: &[f32], columns: usize) -> Result<Self, Nf4Error> {
        if columns == 0 || !columns.is_multiple_of(BLOCK) {
            return Err(Nf4Error::PartialBlock { row: columns });
        }
        if !values.len().is_multiple_of(columns) {
            return Err(Nf4Error::PartialRow {
                values: values.len(),
                row: columns,
            });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let value = values[index];
            return Err(Nf4Error::NotFinite { index, value });
        }
        let largest: Vec<f32> = values.par_chunks(BLOCK).map(largest_magnitude).collect();
        let mut codes = vec![0; values.len() / 2];
        codes
            .par_chunks_mut(BLOCK / 2)
            .zip(values.par_chunks(BLOCK))
            .zip(&largest)
            .for_each(|((codes, values), &largest)| {
                let scale = inverse(largest);
                for (code, pair) in codes.iter_mut().zip(values.as_chunks::<2>().0) {
                    let [high, low] = pair.map(|value| level(value * scale));
                    *code = high << 4 | low;
                }
            });
        let sum: f64 = largest.iter().map(|&value| f64::from(value)).sum();
        let offset = (sum / largest.len().max(1) as f64) as f32;
        let centred: Vec<f32> = largest.iter().map(|value| value - offset).collect();
        let ranges: Vec<f32> = centred.chunks(SCALE_BLOCK).map(largest_magnitude).collect();
        let scales: Vec<u8> = (centred.chunks(SCALE_BLOCK).zip(&ranges))
            .flat_map(|(scales, &range)| scales.iter().map(move |s| nearest(s * inverse(range))))
            .collect();
        Ok(Self {
            columns,
            codes: codes.into(),
            scales: scales.into(),
            ranges: ranges.into(),
            offset,
        })
    }

    pub fn rows(&self) -> usize {
        2 * self.codes.len() / self.columns
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    pub fn ranges(&self) -> &[f32] {
        &self.ranges
    }

    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// Bytes that the matrix takes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len() + 4 * self.ranges.len()
    }

    /// The scale of a block, as it is read back.
    pub fn scale(&self, block: usize) -> f32 {
        DYNAMIC_MAP[usize::from(self.scales[block])] * self.ranges[block / SCALE_BLOCK]
            + self.offset
    }

    /// Writes rows from `first` to `values`, which is a whole number of rows.
    pub fn dequantize_rows(&self, first: usize, values: &mut [f32]) {
        let first = first * self.columns / BLOCK;
        let pairs = &*PAIRS;
        (values.par_chunks_mut(BLOCK).enumerate())
            .with_min_len(1024)
            .for_each(|(block, values)| {
                let block = first + block;
                let scale = self.scale(block);
                let codes = &self.codes[block * BLOCK / 2..][..BLOCK / 2];
                for (pair, &code) in values.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                    *pair = pairs[usize::from(code)];
                }
                values.iter_mut().for_each(|value| *value *= scale);
            });
    }
}

fn largest_magnitude(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}

/// A block of zeros has no scale to be divided by.
fn inverse(value: f32) -> f32 {
    1.0 / value.max(1e-38)
}

/// The nearest level, the lower one of two.
fn level(value: f32) -> u8 {
    let above = |at: &usize| value > (LEVELS[*at] + LEVELS[at + 1]) / 2.0;
    (0..LEVELS.len() - 1).filter(above).count() as u8
}

/// The nearest entry of [`DYNAMIC_MAP`], the lower one of two.
fn nearest(value: f32) -> u8 {
    let map = &*DYNAMIC_MAP;
    let is_above = |at: usize| value > (map[at] + map[at + 1]) / 2.0;
    let (mut low, mut high) = (0, map.len() - 1);
    while low < high {
        let middle = (low + high) / 2;
        match is_above(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_come_back_as_themselves() {
        let values: Vec<f32> = (0..128).map(|i| LEVELS[i % 16]).collect();
        let quantized = Nf4::quantize(&values, 64).unwrap();
        assert_eq!(
            &quantized.codes()[..8],
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
        );
        let mut back = vec![0.0; 64];
        quantized.dequantize_rows(1, &mut back);
        assert_eq!(back, values[64..]);
    }

    #[test]
    fn zeros_stay_zeros_and_what_cannot_be_held_is_told() {
        let mut values = vec![0.0; 128];
        values[100] = 3.0;
        let quantized = Nf4::quantize(&values, 128).unwrap();
        let mut back = vec![1.0; 128];
        quantized.dequantize_rows(0, &mut back);
        assert!(back[..64].iter().all(|&value| value == 0.0));
        assert!((back[100] - 3.0).abs() < 0.05, "{}", back[100]);
        assert_eq!(
            Nf4::quantize(&values, 32).err(),
            Some(Nf4Error::PartialBlock { row: 32 })
        );
        assert!(matches!(
            Nf4::quantize(&values, 192),
            Err(Nf4Error::PartialRow { .. })
        ));
        values[7] = f32::INFINITY;
        assert!(matches!(
            Nf4::quantize(&values, 64),
            Err(Nf4Error::NotFinite { index: 7, .. })
        ));
    }

    /// `tests/golden/make_nf4.py` made the numbers.
    #[test]
    fn codes_are_those_of_bitsandbytes() {
        let golden = include_bytes!("../../tests/golden/nf4.safetensors");
        let file = safetensors::SafeTensors::deserialize(golden).unwrap();
        let bytes = |name: &str| file.tensor(name).unwrap().data();
        let floats = |name: &str| -> Vec<f32> {
            let fours = bytes(name).as_chunks::<4>().0;
            fours.iter().map(|four| f32::from_le_bytes(*four)).collect()
        };
        assert_eq!(floats("map"), DYNAMIC_MAP.as_slice());
        for case in ["normal", "heavy", "blank"] {
            let at = |key: &str| format!("{case}.{key}");
            let columns = file.tensor(&at("values")).unwrap().shape()[1];
            let quantized = Nf4::quantize(&floats(&at("values")), columns).unwrap();
            assert_eq!(quantized.codes(), bytes(&at("codes")), "{case}");
            assert_eq!(quantized.scales(), bytes(&at("scales")), "{case}");
            let scales = (0..quantized.scales().len()).map(|block| quantized.scale(block));
            let difference = largest_difference(scales, &floats(&at("absmax")));
            println!("{case}: scales differ by {difference:e}");
            assert!(difference <= 1e-6, "{case}: {difference:e}");
            let mut values = vec![0.0; quantized.rows() * columns];
            quantized.dequantize_rows(0, &mut values);
            let difference = largest_difference(values.into_iter(), &floats(&at("dequantized")));
            assert!(difference <= 1e-6, "{case}: {difference:e}");
        }
    }

    fn largest_difference(found: impl Iterator<Item = f32>, expected: &[f32]) -> f32 {
        let differences = found
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs());
        differences.fold(0.0, f32::max)
    }
}

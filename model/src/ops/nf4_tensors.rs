//! NF4 on any device: the bytes live there, and tensor operations turn them into values where they are used.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::quant::nf4::{BLOCK, DYNAMIC_MAP, LEVELS, Nf4, SCALE_BLOCK};

/// A matrix whose bytes are held as words of four.
#[derive(Debug, Clone)]
pub struct Nf4Tensors {
    rows: usize,
    columns: usize,
    codes: Tensor<1, Int>,
    scales: Tensor<1, Int>,
    ranges: Tensor<1>,
    offset: f32,
    levels: Tensor<1>,
    map: Tensor<1>,
}

impl Nf4Tensors {
    pub fn new(quantized: &Nf4, device: &Device) -> Self {
        let floats = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Tensor::<1>::from_data(data, (device, DType::F32))
        };
        Self {
            rows: quantized.rows(),
            columns: quantized.columns(),
            codes: words(quantized.codes(), device),
            scales: words(quantized.scales(), device),
            ranges: floats(quantized.ranges()),
            offset: quantized.offset(),
            levels: floats(&LEVELS),
            map: floats(&*DYNAMIC_MAP),
        }
    }

    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// Bytes that the matrix takes, without the tables.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.dims()[0] + self.scales.dims()[0] + self.ranges.dims()[0])
    }

    /// `[rows, columns]`.
    pub fn dequantize(&self, dtype: DType) -> Tensor<2> {
        let values = self.rows * self.columns;
        let blocks = values / BLOCK;
        // The high half of a byte comes first.
        let codes = fields(&self.codes, &[4, 0, 12, 8, 20, 16, 28, 24], 15);
        let levels = self.levels.clone().select(0, codes);
        let scales = fields(&self.scales, &[0, 8, 16, 24], 255).narrow(0, 0, blocks);
        let groups = self.ranges.dims()[0];
        let ranges = self.ranges.clone().reshape([groups, 1]);
        let ranges = ranges
            .repeat_dim(1, SCALE_BLOCK)
            .reshape([groups * SCALE_BLOCK])
            .narrow(0, 0, blocks);
        let scales = (self.map.clone().select(0, scales) * ranges).add_scalar(self.offset);
        let scaled = levels.reshape([blocks, BLOCK]) * scales.reshape([blocks, 1]);
        scaled.reshape([self.rows, self.columns]).cast(dtype)
    }

    /// Every value, row after row.
    pub fn values(&self) -> Vec<f32> {
        let values = self.dequantize(DType::F32).into_data();
        values.try_to_vec().expect("dequantised to f32")
    }
}

/// Four bytes a word, the first lowest; filled up with zeros.
fn words(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let words: Vec<i32> = bytes
        .chunks(4)
        .map(|bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            i32::from_le_bytes(word)
        })
        .collect();
    let count = words.len();
    Tensor::from_data(TensorData::new(words, [count]), (device, DType::I32))
}

/// The bits of each word after each of `shifts`, in that order, word after word.
fn fields(words: &Tensor<1, Int>, shifts: &[i32], mask: i32) -> Tensor<1, Int> {
    let parts: Vec<Tensor<1, Int>> = shifts
        .iter()
        .map(|&shift| {
            let shifted = words.clone().bitwise_right_shift_scalar(shift);
            shifted.bitwise_and_scalar(mask)
        })
        .collect();
    let fields: Tensor<2, Int> = Tensor::stack(parts, 1);
    let count = words.dims()[0] * shifts.len();
    fields.reshape([count])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, values};

    #[test]
    fn tensor_operations_give_the_bits_of_the_cpu_s_loops() {
        // More blocks than share a range, and no whole number of words of scales.
        let (rows, columns) = (91, 192);
        let dense: Vec<f32> = values(&random([rows, columns], 3))
            .iter()
            .map(|&v| v as f32)
            .collect();
        let quantized = Nf4::quantize(&dense, columns).unwrap();
        let mut host = vec![0.0; dense.len()];
        quantized.dequantize_rows(0, &mut host);
        let tensors = Nf4Tensors::new(&quantized, &Device::flex());
        assert_eq!(tensors.values(), host);
        assert!(tensors.bytes() <= quantized.bytes() + 8);
    }
}

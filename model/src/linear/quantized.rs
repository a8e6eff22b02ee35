//! A linear layer in few bits: what its matrix was rounded to, and how its inputs are rounded.

use half::f16;
use rayon::prelude::*;

use super::activation::{ActivationQuantization, ActivationScheme};
use super::dense::Linear;
use crate::quant::integer::{IntegerConfig, IntegerError, IntegerMatrix};
use crate::quant::nf4::Nf4;

/// A linear layer's matrix as codes.
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    pub codes: Codes,
    pub activations: Option<ActivationQuantization>,
    /// `[rows, outliers]`: the columns that `activations` leaves as they are, in 16 bits. Their codes stand for 0.
    pub outliers: Vec<f16>,
}

#[derive(Debug, Clone)]
pub enum Codes {
    Integer(IntegerMatrix),
    Nf4(Nf4),
}

impl QuantizedLinear {
    pub fn new(codes: Codes, activations: Option<ActivationQuantization>) -> Self {
        Self {
            codes,
            activations,
            outliers: Vec::new(),
        }
    }

    /// LLM.int8 (arXiv 2208.07339): the columns `outliers`, rising, stay in 16 bits, the rest of each row and of each
    /// token is absmax int8.
    ///
    /// # Errors
    /// As [`absmax_int8`].
    pub fn llm_int8(
        mut values: Vec<f32>,
        [rows, columns]: [usize; 2],
        outliers: Vec<u32>,
    ) -> Result<Self, IntegerError> {
        let mut kept = Vec::with_capacity(rows * outliers.len());
        for row in values.chunks_mut(columns.max(1)) {
            for &column in &outliers {
                kept.push(f16::from_f32(std::mem::take(&mut row[column as usize])));
            }
        }
        Ok(Self {
            codes: Codes::Integer(absmax_int8(&values, [rows, columns])?),
            activations: Some(ActivationQuantization {
                outliers,
                ..ActivationQuantization::per_token(ActivationScheme::Absmax)
            }),
            outliers: kept,
        })
    }

    /// `[rows, columns]`
    pub fn shape(&self) -> [usize; 2] {
        match &self.codes {
            Codes::Integer(matrix) => [matrix.rows, matrix.columns],
            Codes::Nf4(nf4) => [nf4.rows(), nf4.columns()],
        }
    }

    /// The columns that are not rounded.
    pub fn outlier_columns(&self) -> &[u32] {
        self.activations
            .as_ref()
            .map_or(&[], |activations| &activations.outliers)
    }

    /// Every value, row after row.
    pub fn values(&self) -> Vec<f32> {
        let [rows, columns] = self.shape();
        let mut values = match &self.codes {
            Codes::Integer(matrix) => matrix.dequantize(),
            Codes::Nf4(nf4) => {
                let mut values = vec![0.0; rows * columns];
                nf4.dequantize_rows(0, &mut values);
                values
            }
        };
        let outliers = self.outlier_columns();
        if !outliers.is_empty() {
            let kept = self.outliers.chunks(outliers.len());
            for (row, kept) in values.chunks_mut(columns).zip(kept) {
                for (&column, value) in outliers.iter().zip(kept) {
                    row[column as usize] = value.to_f32();
                }
            }
        }
        values
    }

    /// Bytes of the packed matrix, with scales, zeros and what is kept in 16 bits.
    pub fn bytes(&self) -> usize {
        let [rows, _] = self.shape();
        match &self.codes {
            Codes::Integer(matrix) => {
                let columns = self.outlier_columns().len();
                let codes = rows * columns * usize::from(matrix.bits) / 8;
                matrix.bytes() - codes + 2 * rows * columns + 4 * columns
            }
            Codes::Nf4(nf4) => nf4.bytes(),
        }
    }

    /// Puts the values that the codes stand for, and the rounding of inputs, into a layer of this shape.
    pub fn put_into(&self, linear: &mut Linear) {
        linear.weight = linear.weight.replaced(self.values(), self.shape()[1]);
        linear.activations = self.activations.clone();
    }
}

/// Each row to codes −127 to 127 with its largest magnitude at ±127; the scale is rounded to `f16` first.
///
/// # Errors
/// [`IntegerError`] when the values are not `[rows, columns]`, or one is out of reach.
pub fn absmax_int8(
    values: &[f32],
    [rows, columns]: [usize; 2],
) -> Result<IntegerMatrix, IntegerError> {
    let config = IntegerConfig {
        bits: 8,
        group_size: None,
        symmetric: true,
    };
    let mut matrix = IntegerMatrix::round_to_nearest(values, [rows, columns], &config)?;
    (matrix.codes.par_chunks_mut(columns))
        .zip(values.par_chunks(columns))
        .zip(&mut matrix.scales)
        .for_each(|((codes, values), scale)| {
            let largest = values
                .iter()
                .fold(0.0_f32, |most, value| most.max(value.abs()));
            *scale = f16::from_f32(largest / 127.0)
                .max(f16::from_bits(1))
                .to_f32();
            for (code, value) in codes.iter_mut().zip(values) {
                *code = ((value / *scale).round_ties_even().clamp(-127.0, 127.0) + 128.0) as u8;
            }
        });
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::linear::Weight;
    use crate::ops::check::{assert_close, random, values};
    use crate::ops::host::from_values;
    use crate::parameter::Parameter;

    /// `tests/golden/make_int8_weights.py` made the numbers.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/int8_weights.safetensors");
    const SHAPE: [usize; 2] = [24, 96];

    fn golden<T: bytemuck::AnyBitPattern>(name: &str) -> Vec<T> {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let bytes = file.tensor(name).unwrap().data();
        let read = bytes.chunks(size_of::<T>());
        read.map(bytemuck::pod_read_unaligned).collect()
    }

    #[test]
    fn rows_are_rounded_as_the_formulas_say() {
        let weight: Vec<f32> = golden("weight");
        let absmax = absmax_int8(&weight, SHAPE).unwrap();
        let signed: Vec<i8> = absmax
            .codes
            .iter()
            .map(|code| code.wrapping_sub(128) as i8)
            .collect();
        assert_eq!(signed, golden::<i8>("absmax.codes"));
        assert_eq!(absmax.scales, golden::<f32>("absmax.scales"));
        assert_eq!(absmax.dequantize(), golden::<f32>("absmax"));
        // bitsandbytes keeps scales in f32: at most one code further.
        let theirs: Vec<i8> = golden("bitsandbytes.codes");
        let far = signed
            .iter()
            .zip(&theirs)
            .filter(|(a, b)| a.abs_diff(**b) > 1);
        assert_eq!(far.count(), 0);

        let config = IntegerConfig {
            bits: 8,
            group_size: None,
            symmetric: false,
        };
        let zero_point = IntegerMatrix::round_to_nearest(&weight, SHAPE, &config).unwrap();
        assert_eq!(zero_point.codes, golden::<u8>("zero_point.codes"));
        assert_eq!(zero_point.zeros, golden::<u8>("zero_point.zeros"));
        assert_eq!(zero_point.dequantize(), golden::<f32>("zero_point"));
        assert_eq!(absmax.bytes(), 24 * 96 + 24 * 3);

        let columns: Vec<u32> = golden("outlier_columns");
        let mixed = QuantizedLinear::llm_int8(weight, SHAPE, columns.clone()).unwrap();
        assert_eq!(mixed.values(), golden::<f32>("llm_int8"));
        assert_eq!(mixed.outlier_columns(), columns);
        let (kept, all) = (columns.len(), 24 * 96);
        assert_eq!(
            mixed.bytes(),
            all - 24 * kept + 24 * 3 + 2 * 24 * kept + 4 * kept
        );
    }

    #[test]
    fn a_layer_computes_with_what_the_codes_stand_for() {
        let mut linear = Linear::new(
            Weight::Dense(Parameter::new(
                "w.weight",
                vec![24, 96],
                random([24, 96], 1),
            )),
            None,
        );
        let weight: Vec<f32> = golden("weight");
        let mixed = QuantizedLinear::llm_int8(weight, SHAPE, golden("outlier_columns")).unwrap();
        mixed.put_into(&mut linear);
        assert_eq!(linear.weight.values(), mixed.values());
        let x = random([3, 96], 2);
        let rounded = mixed.activations.as_ref().unwrap().apply(&x);
        assert_eq!(
            values(&linear.forward(&x)),
            values(&linear.weight.forward(&rounded))
        );
    }

    /// y = Σ s·s'·(c − z)·(c' − z') in whole numbers, which is what a processor would compute.
    #[test]
    fn rounded_values_multiply_to_what_integers_give() {
        let weight: Vec<f32> = golden("weight");
        let x: Vec<f32> = values(&random([7, 96], 5))
            .iter()
            .map(|x| *x as f32)
            .collect();
        let asymmetric = IntegerConfig {
            bits: 8,
            group_size: None,
            symmetric: false,
        };
        let zero_point = IntegerMatrix::round_to_nearest(&weight, SHAPE, &asymmetric).unwrap();
        for (scheme, codes) in [
            (
                ActivationScheme::Absmax,
                absmax_int8(&weight, SHAPE).unwrap(),
            ),
            (ActivationScheme::ZeroPoint, zero_point),
        ] {
            let mut expected = Vec::new();
            for x in x.chunks(96) {
                let least = x.iter().copied().fold(0.0, f32::min);
                let most = x.iter().copied().fold(0.0, f32::max);
                let (scale, zero) = match scheme {
                    ActivationScheme::Absmax => (most.max(-least) / 127.0, 0),
                    ActivationScheme::ZeroPoint => {
                        let scale = (most - least) / 255.0;
                        (scale, -128 - (least / scale).round_ties_even() as i32)
                    }
                };
                let code = |x: &f32| (x / scale).round_ties_even() as i32 + zero;
                let tokens: Vec<i32> = x.iter().map(code).collect();
                assert!(tokens.iter().all(|code| (-128..=127).contains(code)));
                for (row, weights) in codes.codes.chunks(96).enumerate() {
                    let w_zero = i32::from(codes.zeros[row]);
                    let products = tokens.iter().zip(weights);
                    let sum: i32 = products
                        .map(|(x, w)| (x - zero) * (i32::from(*w) - w_zero))
                        .sum();
                    expected.push(f64::from(sum) * f64::from(scale) * f64::from(codes.scales[row]));
                }
            }
            let activations = ActivationQuantization::per_token(scheme);
            let layer = QuantizedLinear::new(Codes::Integer(codes), Some(activations));
            let empty = from_values(vec![0.0_f32; 24 * 96], SHAPE);
            let parameter = Parameter::new("w.weight", SHAPE.to_vec(), empty);
            let mut linear = Linear::new(Weight::Dense(parameter), None);
            layer.put_into(&mut linear);
            let y = linear.forward(&from_values(x.clone(), [7, 96]));
            assert_close(&y, &from_values(expected, [7, 24]), 1e-6);
        }
    }
}

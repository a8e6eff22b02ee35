//! Activations in int8: the inputs of a linear layer are rounded to the values that codes of 8 bits stand for. The
//! product of those values is what integer arithmetic gives, up to the rounding of `f32` sums.

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ops::host::{HostTensor, is_host, map_in_place};
use crate::ops::simd::widest;

/// How the inputs of a linear layer are quantised.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationQuantization {
    pub scheme: ActivationScheme,
    /// Lowest and highest value that calibration has seen, for all tokens; without it each token has its own range.
    pub range: Option<[f32; 2]>,
    /// Columns that stay as they are (LLM.int8, arXiv 2208.07339), rising. They take no part in a token's range.
    pub outliers: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationScheme {
    /// Codes −127 to 127; the largest magnitude has code ±127. bitsandbytes' `int8_vectorwise_quant`.
    Absmax,
    /// Codes −128 to 127 from the lowest value, or 0, to the highest, or 0. torchao's 8da4w.
    ZeroPoint,
}

/// Values below it have no reciprocal in `f32`.
const SMALLEST: f32 = f32::MIN_POSITIVE;
/// Codes to both sides of absmax, and steps between all codes of zero-point.
const SIDE: f32 = 127.0;
const STEPS: f32 = 255.0;

impl ActivationQuantization {
    /// Each token has its own range.
    pub fn per_token(scheme: ActivationScheme) -> Self {
        Self {
            scheme,
            range: None,
            outliers: Vec::new(),
        }
    }

    /// `x` `[tokens, in]` as its codes read back, in the dtype of `x`. Its gradient is taken straight through: that of
    /// the result is that of `x`.
    pub fn apply(&self, x: &Tensor<2>) -> Tensor<2> {
        match x.dtype() == DType::F32 && is_host(x) {
            true => self.apply_on_host(x.clone()),
            false => self.apply_by_tensors(x),
        }
    }

    fn apply_on_host(&self, x: Tensor<2>) -> Tensor<2> {
        let width = x.dims()[1].max(1);
        let original = HostTensor::held(&x);
        let original = original.slice::<f32>();
        map_in_place::<f32, 2>(x, |x| {
            (x.par_chunks_mut(width).zip(original.par_chunks(width)))
                .with_min_len(4)
                .for_each(|(row, original)| self.apply_to_row(row, original));
        })
    }

    fn apply_to_row(&self, row: &mut [f32], original: &[f32]) {
        for &column in &self.outliers {
            row[column as usize] = 0.0;
        }
        widest(
            #[inline(always)]
            || {
                let [low, high] = self.range.unwrap_or_else(|| range(row));
                let grid = Grid::new(self.scheme, low.min(0.0), high.max(0.0));
                for value in row.iter_mut() {
                    *value = grid.round(*value);
                }
            },
        );
        for &column in &self.outliers {
            row[column as usize] = original[column as usize];
        }
    }

    /// The same in `f32`, or in `f64` where `x` is.
    fn apply_by_tensors(&self, x: &Tensor<2>) -> Tensor<2> {
        let (device, width) = (x.device(), x.dims()[1]);
        let wide = match x.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let original = x.clone().cast(wide);
        let kept = (!self.outliers.is_empty()).then(|| {
            let mut kept = vec![0.0_f32; width];
            for &column in &self.outliers {
                kept[column as usize] = 1.0;
            }
            let data = TensorData::new(kept, [1, width]);
            Tensor::<2>::from_data(data, (&device, DType::F32)).cast(wide)
        });
        let values = match &kept {
            Some(kept) => original.clone() * (kept.clone().neg() + 1.0),
            None => original.clone(),
        };
        let [low, high] = match self.range {
            Some(range) => range.map(|end| Tensor::full([1, 1], end, (&device, wide))),
            None => [values.clone().min_dim(1), values.clone().max_dim(1)],
        };
        let (low, high) = (low.clamp_max(0.0), high.clamp_min(0.0));
        let rounded = match self.scheme {
            ActivationScheme::Absmax => {
                let largest = low.neg().max_pair(high).clamp_min(SMALLEST * SIDE);
                let inverse = largest.full_like(SIDE) / largest.clone();
                let codes = (values * inverse).round().clamp(-SIDE, SIDE);
                codes * (largest / SIDE)
            }
            ActivationScheme::ZeroPoint => {
                let scale = ((high - low.clone()) / STEPS).clamp_min(SMALLEST);
                let (first, last) = (-SIDE - 1.0, SIDE);
                let zero = ((low / scale.clone()).round().neg() + first).clamp(first, last);
                let codes = (values * (scale.full_like(1.0) / scale.clone())).round();
                ((codes + zero.clone()).clamp(first, last) - zero) * scale
            }
        };
        let result = match kept {
            Some(kept) => rounded * (kept.clone().neg() + 1.0) + original * kept,
            None => rounded,
        };
        result.cast(x.dtype())
    }
}

fn range(values: &[f32]) -> [f32; 2] {
    values.iter().fold([0.0_f32; 2], |[low, high], &value| {
        [
            if value < low { value } else { low },
            if value > high { value } else { high },
        ]
    })
}

/// The values that codes stand for: `scale` · (code − `zero`).
struct Grid {
    scale: f32,
    inverse: f32,
    zero: f32,
    first: f32,
    last: f32,
}

impl Grid {
    /// `low` ≤ 0 ≤ `high`.
    #[inline(always)]
    fn new(scheme: ActivationScheme, low: f32, high: f32) -> Self {
        match scheme {
            ActivationScheme::Absmax => {
                let largest = high.max(-low).max(SMALLEST * SIDE);
                Self {
                    scale: largest / SIDE,
                    inverse: SIDE / largest,
                    zero: 0.0,
                    first: -SIDE,
                    last: SIDE,
                }
            }
            ActivationScheme::ZeroPoint => {
                let scale = ((high - low) / STEPS).max(SMALLEST);
                let (first, last) = (-SIDE - 1.0, SIDE);
                Self {
                    scale,
                    inverse: 1.0 / scale,
                    zero: (first - (low / scale).round_ties_even()).clamp(first, last),
                    first,
                    last,
                }
            }
        }
    }

    #[inline(always)]
    fn round(&self, value: f32) -> f32 {
        let code = (value * self.inverse).round_ties_even() + self.zero;
        (code.clamp(self.first, self.last) - self.zero) * self.scale
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::linear::{Linear, Weight};
    use crate::ops::check::{assert_close, random, values};
    use crate::ops::host::from_values;
    use crate::parameter::Parameter;

    /// `tests/golden/make_activations.py` made the numbers.
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/activations.safetensors");

    fn golden<T: bytemuck::AnyBitPattern>(name: &str) -> Vec<T> {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let size = size_of::<T>();
        let bytes = file.tensor(name).unwrap().data();
        let read = bytes.chunks(size).map(bytemuck::pod_read_unaligned);
        read.collect()
    }

    fn cases() -> [(&'static str, ActivationQuantization); 5] {
        use ActivationScheme::{Absmax, ZeroPoint};
        let range = golden::<f32>("static_range");
        let fixed = |scheme| ActivationQuantization {
            range: Some([range[0], range[1]]),
            ..ActivationQuantization::per_token(scheme)
        };
        let outliers = ActivationQuantization {
            outliers: golden("outlier_columns"),
            ..ActivationQuantization::per_token(Absmax)
        };
        [
            ("absmax", ActivationQuantization::per_token(Absmax)),
            ("zero_point", ActivationQuantization::per_token(ZeroPoint)),
            ("static_absmax", fixed(Absmax)),
            ("static_zero_point", fixed(ZeroPoint)),
            ("outliers", outliers),
        ]
    }

    #[test]
    fn values_are_those_of_bitsandbytes_and_torchao() {
        let x = golden::<f32>("x");
        let x: Tensor<2> = from_values(x, [12, 96]);
        for (name, quantization) in cases() {
            let expected = golden::<f32>(name);
            for (way, result) in [
                ("loop", quantization.apply(&x)),
                ("tensors", quantization.apply_by_tensors(&x)),
            ] {
                let result: Vec<f32> = result.into_data().try_to_vec().unwrap();
                assert_eq!(result, expected, "{name}, {way}");
            }
            // In f64 a value that lies between two codes may fall to the other side.
            let wide = quantization.apply(&x.clone().cast(DType::F64));
            assert_eq!(wide.dtype(), DType::F64);
            assert_close(&wide, &from_values(expected, [12, 96]), 0.01);
        }
    }

    #[test]
    fn zeros_and_single_signs_have_a_grid() {
        for (name, quantization) in cases() {
            let x: Tensor<2> = from_values(vec![0.0_f32; 96], [1, 96]);
            assert_eq!(values(&quantization.apply(&x)), vec![0.0; 96], "{name}");
        }
        let x: Tensor<2> = from_values(vec![1.0_f32, 2.0, 255.0], [1, 3]);
        let zero_point = ActivationQuantization::per_token(ActivationScheme::ZeroPoint);
        assert_eq!(values(&zero_point.apply(&x)), [1.0, 2.0, 255.0]);
    }

    #[test]
    fn a_linear_layer_rounds_its_inputs_and_passes_gradients_straight_through() {
        let parameter = |seed| Parameter::new("w.weight", vec![5, 96], random([5, 96], seed));
        let plain = Linear::new(Weight::Dense(parameter(1)), None);
        let x = random([12, 96], 2);
        for (name, quantization) in cases() {
            let rounded = quantization.apply(&x);
            let mut linear = plain.clone();
            linear.activations = Some(quantization);
            assert_eq!(
                values(&linear.forward(&x)),
                values(&plain.forward(&rounded)),
                "{name}"
            );
            let dy = random([12, 5], 3);
            let dx = linear.backward(&dy, &x);
            let mut expected = plain.clone();
            assert_eq!(values(&dx), values(&expected.backward(&dy, &rounded)));
            let gradient = |linear: &Linear| {
                let parameter = linear.weight.parameter().unwrap();
                values(parameter.gradient.as_ref().unwrap())
            };
            assert_eq!(gradient(&linear), gradient(&expected), "{name}");
        }
    }
}

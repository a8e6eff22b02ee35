//! Rotary position embedding (arXiv 2104.09864), paired as Hugging Face pairs it: element i of a head
//! turns together with element i + head_dim/2, by the angle position · frequency[i].

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::host::{HostTensor, is_host, map_in_place};
use super::real::Real;
use super::simd::widest;
use crate::config::{RopeConfig, RopeScaling};
use crate::span::Cost;
use crate::{for_real, operation};

/// Angle per position step of each of the `head_dim / 2` pairs.
///
/// Computed in `f32` in the order in which transformers computes it, so that long contexts agree.
pub fn frequencies(config: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let plain = (0..head_dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / head_dim as f32;
        1.0 / (config.theta as f32).powf(exponent)
    });
    match config.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let old_context = original_max_position_embeddings as f32;
            let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
            plain
                .map(|f| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength < old_context / high {
                        f
                    } else if wavelength > old_context / low {
                        f / factor as f32
                    } else {
                        let smooth = (old_context / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor as f32 + smooth * f
                    }
                })
                .collect()
        }
    }
}

/// Cosines and sines of a batch's angles: two `[tokens, head_dim / 2]`, shared by all layers.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rotation {
    /// The angles of tokens at `positions`, in the dtype in which they will be applied.
    pub fn new(frequencies: &[f32], positions: &[u32], device: &Device, dtype: DType) -> Self {
        let angles = positions
            .iter()
            .flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for angle in angles {
            cos.push(angle.cos());
            sin.push(angle.sin());
        }
        let shape = [positions.len(), frequencies.len()];
        let tensor = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, shape), (device, DType::F32)).cast(dtype)
        };
        Self {
            cos: tensor(cos),
            sin: tensor(sin),
        }
    }

    /// Turns every head of `x` `[tokens, heads · head_dim]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.turn(x, false)
    }

    /// The gradient: the same turn backwards, because a rotation's transpose is its inverse.
    pub fn backward(&self, dy: Tensor<2>) -> Tensor<2> {
        self.turn(dy, true)
    }

    fn turn(&self, x: Tensor<2>, backwards: bool) -> Tensor<2> {
        let _span = operation!("rope", Cost::arrays([&x, &x, &self.cos, &self.sin]));
        #[cfg(feature = "cube")]
        if super::cube::runs(&x) {
            return super::cube::rope::turn(x, &self.cos, &self.sin, backwards);
        }
        if !is_host(&x) {
            return self.turn_formula(x, backwards);
        }
        let width = x.dims()[1];
        let half = self.cos.dims()[1];
        for_real!(x.dtype(), F, {
            let cos = HostTensor::of(&self.cos).expect("on the same device as x");
            let sin = HostTensor::of(&self.sin).expect("on the same device as x");
            let (cos, sin) = (cos.slice::<F>(), sin.slice::<F>());
            map_in_place::<F, 2>(x, |x| {
                x.par_chunks_mut(width)
                    .zip(cos.par_chunks(half).zip(sin.par_chunks(half)))
                    .with_min_len(16)
                    .for_each(|(row, (cos, sin))| turn_row(row, cos, sin, backwards));
            })
        })
    }

    fn turn_formula(&self, x: Tensor<2>, backwards: bool) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let half = self.cos.dims()[1];
        let heads = width / (2 * half);
        let x = x.reshape([tokens, heads, 2 * half]);
        let cos = self.cos.clone().reshape([tokens, 1, half]);
        let sin = self.sin.clone().reshape([tokens, 1, half]);
        let sin = if backwards { sin.neg() } else { sin };
        let a = x.clone().narrow(2, 0, half);
        let b = x.narrow(2, half, half);
        let turned = vec![
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos + a * sin,
        ];
        Tensor::cat(turned, 2).reshape([tokens, width])
    }
}

pub(crate) fn turn_row<F: Real>(row: &mut [F], cos: &[F], sin: &[F], backwards: bool) {
    let half = cos.len();
    let sign = if backwards { -F::ONE } else { F::ONE };
    widest(
        #[inline(always)]
        || {
            for head in row.chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                for i in 0..half {
                    let (x, y, s) = (a[i], b[i], sign * sin[i]);
                    a[i] = x * cos[i] - y * s;
                    b[i] = y * cos[i] + x * s;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_close, assert_gradient, random};

    fn rotation(head_dim: usize, positions: &[u32]) -> Rotation {
        let config = RopeConfig {
            theta: 1e4,
            scaling: RopeScaling::None,
        };
        let frequencies = frequencies(&config, head_dim);
        Rotation::new(&frequencies, positions, &Device::flex(), DType::F64)
    }

    #[test]
    fn fused_equals_the_formula_and_backward_undoes_forward() {
        let positions = [0, 1, 2, 0, 700];
        let x = random([5, 24], 1);
        let rotation = rotation(8, &positions);
        let turned = rotation.forward(x.clone());
        assert_close(&turned, &rotation.turn_formula(x.clone(), false), 1e-12);
        assert_close(&rotation.backward(turned), &x, 1e-6);
    }

    #[test]
    fn gradient_equals_finite_differences() {
        let (x, dy) = (random([3, 8], 1), random([3, 8], 2));
        let rotation = rotation(4, &[0, 5, 9]);
        let dx = rotation.backward(dy.clone());
        assert_gradient(&x, &dx, |x| {
            (rotation.forward(x.clone()) * dy.clone()).sum()
        });
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn the_kernel_equals_formula_and_loop() {
        use crate::ops::check::{pair, vulkan};
        let Some(device) = vulkan() else { return };
        for (tokens, heads, head_dim) in [(1, 1, 2), (5, 3, 8), (300, 9, 64)] {
            let positions: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % 311).collect();
            let cpu = rotation(head_dim, &positions);
            let rotation = Rotation {
                cos: pair(cpu.cos.clone(), &device).0,
                sin: pair(cpu.sin.clone(), &device).0,
            };
            let (x, cpu_x) = pair(random([tokens, heads * head_dim], 1), &device);
            let turned = rotation.forward(x.clone());
            assert_close(&turned, &cpu.forward(cpu_x.clone()), 1e-6);
            assert_close(&turned, &rotation.turn_formula(x.clone(), false), 1e-6);
            // The input was still held, so it must not have changed.
            assert_close(&x, &cpu_x, 0.0);
            assert_close(&rotation.backward(turned), &cpu_x, 1e-6);
        }
    }
}

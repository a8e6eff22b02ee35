//! AdamW (arXiv 1711.05101) with moments in the dtype of the weights, fused into one pass.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use model::ops::host::{HostTensor, is_host, map_in_place};
use model::ops::real::Real;
use model::ops::simd::widest;
use model::parameter::Parameter;
use model::span::Cost;
use model::{for_real, operation, phase};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verdict::Verdict;

/// PyTorch's AdamW; `weight_decay` leaves norms and biases alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Learning rate: its largest value, which `schedule` goes up to and down from.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lr: f64,
    /// Decay of the running means of the gradient and of its square; each at least 0 and below 1.
    #[schemars(extend("items" = { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }))]
    pub betas: [f64; 2],
    /// Added to the root of the mean square.
    #[schemars(range(min = 1e-30), extend("exclusiveMaximum" = 1))]
    pub eps: f64,
    /// Share of the weights that `lr` times takes away in a step; norms and biases are left alone.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            lr: 3e-4,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// The optimizer and its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    pub config: AdamWConfig,
    /// Updates done.
    pub steps: u64,
    pub moments: BTreeMap<String, Moments>,
    /// Of the step before, where steps are judged on a device.
    pub(crate) verdict: Option<Verdict>,
}

/// Running means of the gradient and of its square, shaped as the parameter.
#[derive(Debug, Clone)]
pub struct Moments {
    pub first: Tensor<2>,
    pub second: Tensor<2>,
}

/// What gradients are multiplied by.
#[derive(Debug, Clone, Copy)]
pub enum GradientScale<'a> {
    Known(f64),
    /// Known to the device, which may also say that nothing changes.
    OnDevice(&'a Verdict),
}

/// The numbers of one update of one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub beta: [f64; 2],
    /// lr / (1 − β₁ᵗ).
    pub step_size: f64,
    /// 1 / √(1 − β₂ᵗ).
    pub second_scale: f64,
    pub eps: f64,
    /// 1 − lr · weight decay.
    pub keep: f64,
}

impl AdamW {
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
            verdict: None,
        }
    }

    /// Holds moments of 0 for every trainable parameter that has none. Before the first step: made in its middle, they
    /// would lie between what the step frees, and memory would fall apart into pieces too small for the next.
    pub fn hold_moments<'a>(&mut self, parameters: impl Iterator<Item = &'a Parameter>) {
        for parameter in parameters.filter(|parameter| parameter.trainable) {
            self.held(parameter);
        }
    }

    fn held(&mut self, parameter: &Parameter) -> &mut Moments {
        self.moments
            .entry(parameter.name.clone())
            .or_insert_with(|| Moments {
                first: parameter.value.zeros_like(),
                second: parameter.value.zeros_like(),
            })
    }

    /// One update with learning rate `lr`; takes every gradient, multiplied by `scale`.
    pub fn step<'a>(
        &mut self,
        parameters: impl Iterator<Item = &'a mut Parameter>,
        lr: f64,
        scale: GradientScale,
    ) {
        let _phase = phase!("optimizer");
        self.steps += 1;
        let [beta1, beta2] = self.config.betas;
        let power = self.steps.min(i32::MAX as u64) as i32;
        for parameter in parameters {
            let Some(gradient) = parameter.gradient.take() else {
                continue;
            };
            let decay = match parameter.is_vector() {
                true => 0.0,
                false => self.config.weight_decay,
            };
            let update = Update {
                beta: [beta1, beta2],
                step_size: lr / (1.0 - beta1.powi(power)),
                second_scale: 1.0 / (1.0 - beta2.powi(power)).sqrt(),
                eps: self.config.eps,
                keep: 1.0 - lr * decay,
            };
            let held = self.held(parameter);
            let moments = Moments {
                first: take(&mut held.first),
                second: take(&mut held.second),
            };
            let value = take(&mut parameter.value);
            (parameter.value, *held) = update.apply(value, moments, gradient, scale);
        }
    }
}

/// Moves a tensor out, so that it is held once and can change in place.
fn take(tensor: &mut Tensor<2>) -> Tensor<2> {
    let empty = Tensor::empty([1, 1], &tensor.device());
    std::mem::replace(tensor, empty)
}

impl Update {
    fn apply(
        &self,
        value: Tensor<2>,
        moments: Moments,
        gradient: Tensor<2>,
        scale: GradientScale,
    ) -> (Tensor<2>, Moments) {
        // Four arrays of one shape are read, three of them written.
        let _span = operation!("adamw", Cost::arrays([&gradient; 7]));
        #[cfg(feature = "cube")]
        if let GradientScale::OnDevice(verdict) = scale {
            return super::cube::adamw::apply(self, value, moments, &gradient, verdict);
        }
        let GradientScale::Known(scale) = scale else {
            unreachable!("this program knows no device")
        };
        if !is_host(&value) {
            return self.apply_formula(value, moments, gradient, scale);
        }
        for_real!(value.dtype(), F, {
            let gradient = HostTensor::of(&gradient).expect("on the device of its parameter");
            let (mut first, mut second) = (None, None);
            let value = map_in_place::<F, 2>(value, |value| {
                first = Some(map_in_place::<F, 2>(moments.first, |first| {
                    second = Some(map_in_place::<F, 2>(moments.second, |second| {
                        self.apply_host(value, first, second, gradient.slice::<F>(), scale);
                    }));
                }));
            });
            let moments = Moments {
                first: first.expect("set above"),
                second: second.expect("set above"),
            };
            (value, moments)
        })
    }

    fn apply_host<F: Real>(
        &self,
        value: &mut [F],
        first: &mut [F],
        second: &mut [F],
        gradient: &[F],
        scale: f64,
    ) {
        const BLOCK: usize = 8192;
        value
            .par_chunks_mut(BLOCK)
            .zip(first.par_chunks_mut(BLOCK))
            .zip(second.par_chunks_mut(BLOCK))
            .zip(gradient.par_chunks(BLOCK))
            .for_each(|(((value, first), second), gradient)| {
                self.apply_block(value, first, second, gradient, scale);
            });
    }

    fn apply_block<F: Real>(
        &self,
        value: &mut [F],
        first: &mut [F],
        second: &mut [F],
        gradient: &[F],
        scale: f64,
    ) {
        let real = F::from_f64;
        let [beta1, beta2] = self.beta.map(real);
        let [rest1, rest2] = self.beta.map(|beta| real(1.0 - beta));
        let (step_size, second_scale) = (real(self.step_size), real(self.second_scale));
        let (eps, keep, scale) = (real(self.eps), real(self.keep), real(scale));
        widest(
            #[inline(always)]
            || {
                let moments = first.iter_mut().zip(second.iter_mut());
                for ((value, gradient), (m, v)) in value.iter_mut().zip(gradient).zip(moments) {
                    let g = *gradient * scale;
                    *m = *m * beta1 + g * rest1;
                    *v = *v * beta2 + g * g * rest2;
                    *value = *value * keep - step_size * *m / (v.sqrt() * second_scale + eps);
                }
            },
        );
    }

    fn apply_formula(
        &self,
        value: Tensor<2>,
        moments: Moments,
        gradient: Tensor<2>,
        scale: f64,
    ) -> (Tensor<2>, Moments) {
        let [beta1, beta2] = self.beta;
        let g = gradient.mul_scalar(scale);
        let first = moments.first.mul_scalar(beta1) + g.clone().mul_scalar(1.0 - beta1);
        let second = moments.second.mul_scalar(beta2) + g.square().mul_scalar(1.0 - beta2);
        let root = second
            .clone()
            .sqrt()
            .mul_scalar(self.second_scale)
            .add_scalar(self.eps);
        let value = value.mul_scalar(self.keep) - first.clone().mul_scalar(self.step_size) / root;
        (value, Moments { first, second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tolerance};

    #[test]
    fn fused_equals_the_formula() {
        let tensor = |values: [f64; 4]| {
            Tensor::<2>::from_data([values], (&Device::flex(), burn::tensor::DType::F64))
        };
        let update = Update {
            beta: [0.9, 0.99],
            step_size: 0.3,
            second_scale: 1.7,
            eps: 1e-3,
            keep: 0.98,
        };
        let moments = Moments {
            first: tensor([0.1, -0.2, 0.0, 3.0]),
            second: tensor([0.1, 0.2, 0.0, 3.0]),
        };
        let (value, gradient) = (
            tensor([1.0, -1.0, 2.0, 0.5]),
            tensor([0.3, 0.0, -4.0, 1e-9]),
        );
        let (a, am) = update.apply(
            value.clone(),
            moments.clone(),
            gradient.clone(),
            GradientScale::Known(0.5),
        );
        let (b, bm) = update.apply_formula(value, moments, gradient, 0.5);
        let tolerance = Tolerance::<f64>::absolute(1e-14);
        a.into_data().assert_approx_eq(&b.into_data(), tolerance);
        am.second
            .into_data()
            .assert_approx_eq(&bm.second.into_data(), tolerance);
    }
}

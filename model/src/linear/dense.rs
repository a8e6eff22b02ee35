//! y = x·Wᵀ + b with W `[out, in]` as checkpoints store it.

use burn::tensor::Tensor;

use super::weight::{Array, Weight};
use crate::operation;
use crate::parameter::Parameter;
use crate::span::Cost;

#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Parameter>,
}

impl Linear {
    /// `x` `[tokens, in]` → `[tokens, out]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!("linear forward", Cost::weight_product(x, &self.weight));
        let y = self.weight.forward(x);
        match &self.bias {
            Some(bias) => y + bias.value.clone().cast(x.dtype()),
            None => y,
        }
    }

    /// Gathers the gradients of weight and bias, returns that of `x`.
    pub fn backward(&mut self, dy: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!("linear backward", Cost::weight_product(dy, &self.weight));
        self.weight.accumulate_product(dy, x);
        if let Some(bias) = self.bias.as_mut().filter(|bias| bias.trainable) {
            bias.accumulate(dy.clone().cast(bias.value.dtype()).sum_dim(0));
        }
        self.weight.backward(dy)
    }

    /// Weight and bias as the checkpoint names them.
    pub fn arrays(&self) -> impl Iterator<Item = Array<'_>> {
        std::iter::once(Array::from(&self.weight)).chain(self.bias.as_ref().map(Array::from))
    }

    /// The names of all arrays, to change.
    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let bias = self.bias.as_mut().map(|bias| &mut bias.name);
        std::iter::once(self.weight.name_mut()).chain(bias)
    }

    /// What can be trained.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.weight.parameter().into_iter().chain(&self.bias)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.weight
            .parameter_mut()
            .into_iter()
            .chain(&mut self.bias)
    }
}

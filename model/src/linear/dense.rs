//! y = x·Wᵀ + b with W `[out, in]` as checkpoints store it.

use burn::tensor::Tensor;

use crate::operation;
use crate::parameter::Parameter;
use crate::span::Cost;

#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Parameter,
    pub bias: Option<Parameter>,
}

impl Linear {
    /// `x` `[tokens, in]` → `[tokens, out]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!(
            "linear forward",
            Cost::product(x, &self.weight.value, x.dims()[1])
        );
        let weight = self.weight.value.clone().cast(x.dtype());
        let y = x.clone().matmul(weight.transpose());
        match &self.bias {
            Some(bias) => y + bias.value.clone().cast(x.dtype()),
            None => y,
        }
    }

    /// Gathers the gradients of weight and bias, returns that of `x`.
    pub fn backward(&mut self, dy: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
        let _span = operation!(
            "linear backward",
            Cost::product(dy, &self.weight.value, dy.dims()[1])
        );
        if self.weight.trainable {
            self.weight.accumulate_product(dy, x);
        }
        if let Some(bias) = self.bias.as_mut().filter(|bias| bias.trainable) {
            bias.accumulate(dy.clone().cast(bias.value.dtype()).sum_dim(0));
        }
        dy.clone()
            .matmul(self.weight.value.clone().cast(dy.dtype()))
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        std::iter::once(&mut self.weight).chain(&mut self.bias)
    }
}

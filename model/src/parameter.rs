//! A trainable array: its value under its Hugging Face name, and the gradient that has gathered on it.

use burn::tensor::{DType, Tensor};

use crate::ops::product;

/// A weight matrix, or a vector held as one row.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// As in a Hugging Face checkpoint: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// `[rows, columns]`; a vector (norm, bias) is `[1, length]`.
    pub value: Tensor<2>,
    /// The checkpoint's shape: one number for a vector, two for a matrix.
    pub shape: Vec<usize>,
    /// Sum of the gradients since the last `take_gradient`, in the dtype of `value`.
    pub gradient: Option<Tensor<2>>,
    /// Whether the backward pass computes a gradient for it.
    pub trainable: bool,
}

impl Parameter {
    pub fn new(name: impl Into<String>, shape: Vec<usize>, value: Tensor<2>) -> Self {
        Self {
            name: name.into(),
            value,
            shape,
            gradient: None,
            trainable: true,
        }
    }

    /// Norms and biases are vectors; weight decay leaves them alone.
    pub fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Every value in `f32`, row after row.
    pub fn values(&self) -> Vec<f32> {
        let values = self.value.clone().cast(DType::F32).into_data();
        values.try_to_vec().expect("the parameter was cast to f32")
    }

    /// Adds `dyᵀ·x`, the gradient of y = x·Wᵀ.
    pub fn accumulate_product(&mut self, dy: &Tensor<2>, x: &Tensor<2>) {
        let sum = product::accumulate_transposed(self.gradient.take(), dy, x);
        self.gradient = Some(sum.cast(self.value.dtype()));
    }

    pub fn accumulate(&mut self, gradient: Tensor<2>) {
        let gradient = gradient.cast(self.value.dtype());
        self.gradient = Some(match self.gradient.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        });
    }
}

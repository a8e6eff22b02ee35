//! How a matrix is held: as a trainable array, with or without rounded values beside it, or frozen in quantised blocks.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::fake_quant::FakeQuant;
use super::lora::Lora;
use super::packed::Packed;
use crate::ops::block_matrix::BlockMatrix;
use crate::ops::host::HostTensor;
use crate::ops::packed_product::Rows;
use crate::ops::{embedding, packed_product, product};
use crate::parameter::Parameter;

/// A matrix `[rows, columns]` of a linear layer, of the embedding or of the head.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a model has some hundred of them, in structures that are boxed"
)]
pub enum Weight {
    Dense(Parameter),
    Packed(Packed),
    FakeQuant(Box<FakeQuant>),
}

impl Weight {
    pub fn name(&self) -> &str {
        match self {
            Self::Dense(parameter) => &parameter.name,
            Self::Packed(packed) => &packed.name,
            Self::FakeQuant(fake) => &fake.master.name,
        }
    }

    pub fn name_mut(&mut self) -> &mut String {
        match self {
            Self::Dense(parameter) => &mut parameter.name,
            Self::Packed(packed) => &mut packed.name,
            Self::FakeQuant(fake) => &mut fake.master.name,
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            Self::Dense(parameter) => parameter.value.dims()[0],
            Self::Packed(packed) => packed.rows(),
            Self::FakeQuant(fake) => fake.master.value.dims()[0],
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            Self::Dense(parameter) => parameter.value.dims()[1],
            Self::Packed(packed) => packed.columns(),
            Self::FakeQuant(fake) => fake.master.value.dims()[1],
        }
    }

    /// What its products read.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(parameter) => parameter.elements() * parameter.value.dtype().size(),
            Self::Packed(packed) => packed.bytes(),
            Self::FakeQuant(fake) => fake.rounded().bytes(),
        }
    }

    pub fn device(&self) -> Device {
        match self {
            Self::Dense(parameter) => parameter.value.device(),
            Self::Packed(packed) => packed.device(),
            Self::FakeQuant(fake) => fake.master.value.device(),
        }
    }

    /// The array that training changes; `None` for a frozen one.
    pub fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Dense(parameter) => Some(parameter),
            Self::FakeQuant(fake) => Some(&fake.master),
            Self::Packed(_) => None,
        }
    }

    pub fn parameter_mut(&mut self) -> Option<&mut Parameter> {
        match self {
            Self::Dense(parameter) => Some(parameter),
            Self::FakeQuant(fake) => Some(&mut fake.master),
            Self::Packed(_) => None,
        }
    }

    /// Every value that products are taken with, in `f32`, row after row.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Self::Dense(parameter) => parameter.values(),
            Self::Packed(packed) => packed.values(),
            Self::FakeQuant(fake) => fake.values(),
        }
    }

    /// The dense matrix that takes this one's place: its name, device and dtype, `values` in rows of `columns`.
    pub(crate) fn replaced(&self, values: Vec<f32>, columns: usize) -> Self {
        let shape = [values.len() / columns, columns];
        let held = self.parameter().map(|parameter| parameter.value.dtype());
        let data = TensorData::new(values, shape);
        let value = Tensor::<2>::from_data(data, (&self.device(), DType::F32));
        let value = value.cast(held.unwrap_or(DType::F32));
        Self::Dense(Parameter::new(self.name(), shape.to_vec(), value))
    }

    /// Rows `ids`: `[ids, columns]`.
    pub fn select_rows(&self, ids: &[u32]) -> Tensor<2> {
        match self {
            Self::Dense(parameter) => embedding::forward(&parameter.value, ids),
            Self::Packed(packed) => packed.select_rows(ids),
            Self::FakeQuant(fake) => fake.rounded().select_rows(ids),
        }
    }

    /// What gives the rows in `f32` on the CPU; `None` elsewhere, and for other number types.
    pub fn read_rows<T>(&self, read: impl FnOnce(&dyn Rows) -> T) -> Option<T> {
        match self {
            Self::Dense(parameter) => {
                let value = &parameter.value;
                let held = HostTensor::of(value).filter(|_| value.dtype() == DType::F32)?;
                Some(read(&BlockMatrix::dense(value.dims()[1], held.slice())))
            }
            Self::Packed(packed) => packed.read_rows(read),
            Self::FakeQuant(fake) => fake.rounded().read_rows(read),
        }
    }

    /// x·Wᵀ for `x` `[tokens, columns]`: `[tokens, rows]`, in the dtype of `x`.
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(parameter) => packed_product::forward_few(&parameter.value, x)
                .unwrap_or_else(|| product::forward(x, &parameter.value.clone().cast(x.dtype()))),
            Self::Packed(packed) => packed.forward(x),
            Self::FakeQuant(fake) => fake.rounded().forward(x),
        }
    }

    /// The gradient of `x`, dy·W for `dy` `[tokens, rows]`: `[tokens, columns]`, in the dtype of `dy`.
    pub fn backward(&self, dy: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(parameter) => {
                product::backward(dy, &parameter.value.clone().cast(dy.dtype()))
            }
            Self::Packed(packed) => packed.backward(dy),
            Self::FakeQuant(fake) => fake.rounded().backward(dy),
        }
    }

    /// Adds dyᵀ·x to the gradient of a trainable array.
    pub fn accumulate_product(&mut self, dy: &Tensor<2>, x: &Tensor<2>) {
        if let Some(parameter) = self.parameter_mut().filter(|p| p.trainable) {
            parameter.accumulate_product(dy, x);
        }
    }

    /// A weight whose products are taken many times in `dtype`: cast once. The gradient stays behind, because it
    /// gathers in place only while nobody else holds it.
    pub fn cast(&self, dtype: DType) -> Self {
        match self {
            Self::Dense(parameter) => Self::Dense(Parameter {
                name: parameter.name.clone(),
                value: parameter.value.clone().cast(dtype),
                shape: parameter.shape.clone(),
                gradient: None,
                trainable: parameter.trainable,
            }),
            Self::Packed(packed) => Self::Packed(packed.clone()),
            Self::FakeQuant(fake) => fake.rounded().cast(dtype),
        }
    }
}

/// An array of a model under its checkpoint's name, however it is held.
#[derive(Debug, Clone, Copy)]
pub enum Array<'a> {
    Dense(&'a Parameter),
    Packed(&'a Packed),
    /// Its rounded values.
    FakeQuant(&'a FakeQuant),
    /// A matrix with what its adapter adds.
    Adapted(&'a Weight, &'a Lora),
}

impl<'a> Array<'a> {
    pub fn name(&self) -> &'a str {
        match self {
            Self::Dense(parameter) => &parameter.name,
            Self::Packed(packed) => &packed.name,
            Self::FakeQuant(fake) => &fake.master.name,
            Self::Adapted(weight, _) => weight.name(),
        }
    }

    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Dense(parameter) => parameter.shape.clone(),
            Self::Packed(packed) => vec![packed.rows(), packed.columns()],
            Self::FakeQuant(fake) => fake.master.shape.clone(),
            Self::Adapted(weight, _) => vec![weight.rows(), weight.columns()],
        }
    }

    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Every value in `f32`, row after row.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Self::Dense(parameter) => parameter.values(),
            Self::Packed(packed) => packed.values(),
            Self::FakeQuant(fake) => fake.values(),
            Self::Adapted(weight, lora) => lora.merge_into(weight.values()),
        }
    }
}

impl<'a> From<&'a Weight> for Array<'a> {
    fn from(weight: &'a Weight) -> Self {
        match weight {
            Weight::Dense(parameter) => Self::Dense(parameter),
            Weight::Packed(packed) => Self::Packed(packed),
            Weight::FakeQuant(fake) => Self::FakeQuant(fake),
        }
    }
}

impl<'a> From<&'a Parameter> for Array<'a> {
    fn from(parameter: &'a Parameter) -> Self {
        Self::Dense(parameter)
    }
}

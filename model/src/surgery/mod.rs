//! Smaller architectures cut out of a trained decoder: fewer layers, narrower FFNs, fewer key/value heads.

pub mod depth;
pub mod error;
pub mod gqa;
pub mod width;

use burn::tensor::{DType, Tensor, TensorData};

use crate::linear::Weight;
use crate::parameter::Parameter;

/// The dense matrix that takes the place of `weight`: its name, device and dtype, `values` in rows of `columns`.
fn replaced(weight: &Weight, values: Vec<f32>, columns: usize) -> Weight {
    let shape = [values.len() / columns, columns];
    let held = weight.parameter().map(|parameter| parameter.value.dtype());
    let device = weight.device();
    let value = Tensor::<2>::from_data(TensorData::new(values, shape), (&device, DType::F32))
        .cast(held.unwrap_or(DType::F32));
    Weight::Dense(Parameter::new(weight.name(), shape.to_vec(), value))
}

/// The vector that takes the place of `vector`.
fn replaced_vector(vector: &Parameter, values: Vec<f32>) -> Parameter {
    let length = values.len();
    let device = vector.value.device();
    let value = Tensor::<2>::from_data(TensorData::new(values, [1, length]), (&device, DType::F32))
        .cast(vector.value.dtype());
    Parameter::new(vector.name.clone(), vec![length], value)
}

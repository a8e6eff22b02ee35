//! Smaller architectures cut out of a trained decoder: fewer layers, narrower FFNs, fewer key/value heads.

pub mod depth;
pub mod error;
pub mod gqa;
pub mod width;

use burn::tensor::{DType, Tensor, TensorData};

use crate::parameter::Parameter;

/// The vector that takes the place of `vector`.
fn replaced_vector(vector: &Parameter, values: Vec<f32>) -> Parameter {
    let length = values.len();
    let device = vector.value.device();
    let value = Tensor::<2>::from_data(TensorData::new(values, [1, length]), (&device, DType::F32))
        .cast(vector.value.dtype());
    Parameter::new(vector.name.clone(), vec![length], value)
}

//! A decoder's linear layers as integers. Embedding, head and norms stay as they are.

use thiserror::Error;

use super::integer::{IntegerConfig, IntegerError, IntegerMatrix};
use crate::decoder::Decoder;
use crate::linear::Linear;

/// The modules of the linear layers with their integers, in the order of the forward pass.
pub type QuantizedLayers = Vec<(String, IntegerMatrix)>;

#[derive(Debug, Error, PartialEq)]
pub enum QuantizeError {
    #[error("tensor `{tensor}`: {source}")]
    Matrix {
        tensor: String,
        source: IntegerError,
    },
    #[error("there is no token to calibrate with")]
    NoTokens,
    #[error(
        "tensor `{tensor}`: its inputs give no Hessian that can be inverted\n\
         hint: a larger `damping`, or more calibration text"
    )]
    NotPositiveDefinite { tensor: String },
}

impl QuantizeError {
    pub(super) fn matrix(linear: &Linear) -> impl FnOnce(IntegerError) -> Self + use<> {
        let tensor = linear.weight.name().to_owned();
        |source| Self::Matrix { tensor, source }
    }
}

/// Whether the rows of every linear layer are whole groups.
///
/// # Errors
/// [`QuantizeError::Matrix`] with the first that is not.
pub fn check_groups(decoder: &Decoder, config: &IntegerConfig) -> Result<(), QuantizeError> {
    for linear in decoder.linears() {
        (config.group_columns(linear.weight.columns())).map_err(QuantizeError::matrix(linear))?;
    }
    Ok(())
}

/// Rounds every linear layer to the nearest integers; no text is needed. `progress` hears the number of blocks done.
///
/// # Errors
/// [`QuantizeError::Matrix`].
pub fn round_to_nearest(
    decoder: &mut Decoder,
    config: &IntegerConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<QuantizedLayers, QuantizeError> {
    check_groups(decoder, config)?;
    let mut layers = Vec::new();
    for (number, block) in decoder.blocks.iter_mut().enumerate() {
        for linear in block.linears_mut() {
            let matrix = round_linear(linear, config)?;
            layers.push((linear.module().to_owned(), matrix));
        }
        progress(number + 1);
    }
    Ok(layers)
}

/// Rounds one layer; it computes with the result from then on.
pub(super) fn round_linear(
    linear: &mut Linear,
    config: &IntegerConfig,
) -> Result<IntegerMatrix, QuantizeError> {
    let shape = [linear.weight.rows(), linear.weight.columns()];
    let matrix = IntegerMatrix::round_to_nearest(&linear.weight.values(), shape, config);
    let matrix = matrix.map_err(QuantizeError::matrix(linear))?;
    take_values(linear, &matrix);
    Ok(matrix)
}

/// Lets the layer compute with what the integers stand for.
pub(super) fn take_values(linear: &mut Linear, matrix: &IntegerMatrix) {
    linear.weight = linear.weight.replaced(matrix.dequantize(), matrix.columns);
}

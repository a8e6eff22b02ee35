//! What a teacher says of a batch.

use burn::tensor::Tensor;
use model::decoder::LayerStates;

/// Soft targets in the form that costs least to hold: the logits are `hidden · headᵀ`, computed a chunk
/// at a time by whoever needs them.
#[derive(Debug, Clone)]
pub struct Signal {
    /// Normalised hidden states `[tokens, width]`.
    pub hidden: Tensor<2>,
    /// `[vocabulary, width]`.
    pub head: Tensor<2>,
    /// Outputs of the layers that were asked for.
    pub layers: LayerStates,
}

//! What a teacher says of a batch.

use burn::tensor::Tensor;
use datasets::batch::Batch;
use model::batch::TokenBatch;
use model::decoder::LayerStates;
use model::linear::Weight;

/// Hidden states and the head that turns them into logits. The logits `hidden · headᵀ` of a whole batch are never
/// held: who reads the signal computes them for some tokens at a time.
#[derive(Debug, Clone)]
pub struct Signal {
    /// Hidden states after the final norm, `[tokens, width]`, row-major over the batch.
    pub hidden: Tensor<2>,
    /// `[vocabulary, width]`; rows beyond [`crate::vocabulary::compare`]'s count are padding.
    pub head: Weight,
    /// Outputs `[tokens, width]` of the layers that were asked for.
    pub layers: LayerStates,
}

/// A model's view of a batch.
pub fn token_batch(batch: &Batch) -> TokenBatch {
    TokenBatch {
        rows: batch.rows,
        length: batch.length,
        ids: batch.ids.clone(),
        positions: batch.positions.clone(),
        segments: batch.segments.clone(),
    }
}

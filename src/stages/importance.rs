//! How much each block changes what passes through it, and how active the channels of its FFN are.

use burn::tensor::{DType, Tensor};
use datasets::batch::Batch;
use datasets::loader::BatchLoader;
use model::decoder::Decoder;
use model::surgery::width::ChannelImportance;
use teacher::signal::token_batch;

/// 1 − cos(input, output) of every block, mean over the tokens of up to `sequences` rows
/// (ShortGPT, arXiv 2403.03853).
pub fn block_importance(decoder: &Decoder, data: &BatchLoader, sequences: usize) -> Vec<f64> {
    let wanted: Vec<usize> = (0..=decoder.blocks.len()).collect();
    let mut sums = vec![0.0; decoder.blocks.len()];
    let mut tokens = 0;
    for batch in batches(data, sequences) {
        let (_, layers) = decoder.hidden_and_layers(&token_batch(&batch), &wanted);
        let real: Vec<bool> = batch.segments.iter().map(|&segment| segment != 0).collect();
        tokens += batch.token_count();
        for (block, sum) in sums.iter_mut().enumerate() {
            if let (Some(a), Some(b)) = (layers.get(block), layers.get(block + 1)) {
                *sum += cosine_distances(a, b, &real);
            }
        }
    }
    sums.iter().map(|sum| sum / tokens.max(1) as f64).collect()
}

/// Measures every channel on up to `sequences` rows.
pub fn measure_channels(
    importance: &mut ChannelImportance,
    decoder: &Decoder,
    data: &BatchLoader,
    sequences: usize,
) {
    for batch in batches(data, sequences) {
        importance.add(decoder, &token_batch(&batch));
    }
}

fn batches(data: &BatchLoader, sequences: usize) -> impl Iterator<Item = Batch> {
    let count = sequences.div_ceil(data.rows()) as u64;
    (0..count.min(data.batches_per_epoch())).map(|number| data.batch(number))
}

fn cosine_distances(a: &Tensor<2>, b: &Tensor<2>, real: &[bool]) -> f64 {
    let (a, b) = (a.clone().cast(DType::F32), b.clone().cast(DType::F32));
    let dot = (a.clone() * b.clone()).sum_dim(1);
    let norms = (a.square().sum_dim(1) * b.square().sum_dim(1)).sqrt();
    let cosines: Vec<f32> = (dot / norms.add_scalar(1e-12))
        .into_data()
        .try_to_vec()
        .expect("the states were cast to f32");
    cosines
        .iter()
        .zip(real)
        .filter(|(_, real)| **real)
        .map(|(cosine, _)| 1.0 - f64::from(*cosine))
        .sum()
}

//! Narrower FFNs: the channels that are least active go (Minitron, arXiv 2407.14679).

use burn::tensor::{DType, Tensor};

use super::error::SurgeryError;
use super::replaced_vector;
use crate::batch::TokenBatch;
use crate::block::LinearInput;
use crate::decoder::Decoder;
use crate::linear::Linear;

/// How active every FFN channel of a decoder is. A channel is a row of gate and up and the column of down that reads
/// it; its activation a = silu(gate)·up is what down reads. Its score is Minitron's best: the mean of |a| over the
/// tokens of a sequence, then the L2 norm over the sequences.
pub struct ChannelImportance {
    width: usize,
    /// Sums over the sequences of the squared mean, by layer and channel.
    squares: Vec<Vec<f64>>,
}

impl ChannelImportance {
    /// Nothing measured yet; `width` channels a layer are to be kept.
    ///
    /// # Errors
    /// [`SurgeryError::FfnWidth`] when the decoder has fewer, or none is to be kept.
    pub fn new(decoder: &Decoder, width: usize) -> Result<Self, SurgeryError> {
        let found = decoder.config.intermediate_size;
        if width == 0 || width > found {
            return Err(SurgeryError::FfnWidth {
                wanted: width,
                found,
            });
        }
        Ok(Self {
            width,
            squares: vec![vec![0.0; found]; decoder.blocks.len()],
        })
    }

    /// Adds the sequences of a batch: its rows. Padding, segment 0, does not count.
    pub fn add(&mut self, decoder: &Decoder, batch: &TokenBatch) {
        decoder.observe(batch, &mut |layer, input, activation| {
            if input != LinearInput::Down {
                return;
            }
            for row in mean_magnitudes(activation, batch) {
                for (square, mean) in self.squares[layer].iter_mut().zip(row) {
                    *square += f64::from(mean).powi(2);
                }
            }
        });
    }

    /// By layer and channel.
    pub fn scores(&self) -> Vec<Vec<f64>> {
        let roots = |squares: &Vec<f64>| squares.iter().map(|square| square.sqrt()).collect();
        self.squares.iter().map(roots).collect()
    }

    /// The channels to keep of every layer, rising. Of equal ones the first stay.
    pub fn most_important(&self) -> Vec<Vec<usize>> {
        let best = |squares: &Vec<f64>| {
            let mut order: Vec<usize> = (0..squares.len()).collect();
            order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]).then(a.cmp(&b)));
            order.truncate(self.width);
            order.sort_unstable();
            order
        };
        self.squares.iter().map(best).collect()
    }
}

/// The mean of |`activation`| over the tokens of each row that has any: `[width]` each.
fn mean_magnitudes(activation: &Tensor<2>, batch: &TokenBatch) -> Vec<Vec<f32>> {
    let width = activation.dims()[1];
    let real = |segment: &u32| f32::from(*segment != 0);
    let rows = batch.segments.chunks(batch.length).enumerate();
    rows.filter_map(|(row, segments)| {
        let tokens: f32 = segments.iter().map(real).sum();
        if tokens == 0.0 {
            return None;
        }
        let first = row * batch.length;
        let counted: Vec<f32> = segments.iter().map(real).collect();
        let counted = Tensor::<1>::from_floats(counted.as_slice(), &activation.device());
        let magnitudes = activation
            .clone()
            .slice([first..first + batch.length, 0..width])
            .cast(DType::F32)
            .abs();
        let sum = (magnitudes * counted.reshape([batch.length, 1])).sum_dim(0);
        let mean = (sum / tokens).into_data();
        Some(mean.try_to_vec().expect("the activation was cast to f32"))
    })
    .collect()
}

impl Decoder {
    /// Keeps the given channels of every layer's FFN, in that order.
    ///
    /// # Panics
    /// When there is not one list a layer, all of one length, of channels that exist.
    pub fn keep_channels(&mut self, channels: &[Vec<usize>]) {
        assert_eq!(channels.len(), self.blocks.len(), "one list a layer");
        let width = channels.first().map_or(0, Vec::len);
        assert!(channels.iter().all(|list| list.len() == width));
        for (block, kept) in self.blocks.iter_mut().zip(channels) {
            keep_outputs(&mut block.mlp.gate_proj, kept);
            keep_outputs(&mut block.mlp.up_proj, kept);
            keep_inputs(&mut block.mlp.down_proj, kept);
        }
        self.config.intermediate_size = width;
    }
}

fn keep_outputs(projection: &mut Linear, kept: &[usize]) {
    let columns = projection.weight.columns();
    let values = projection.weight.values();
    let rows = kept
        .iter()
        .flat_map(|&row| &values[row * columns..][..columns]);
    projection.weight = projection.weight.replaced(rows.copied().collect(), columns);
    if let Some(bias) = &mut projection.bias {
        let values = bias.values();
        *bias = replaced_vector(bias, kept.iter().map(|&row| values[row]).collect());
    }
}

fn keep_inputs(projection: &mut Linear, kept: &[usize]) {
    let values = projection.weight.values();
    let rows = values.chunks(projection.weight.columns());
    let columns = rows.flat_map(|row| kept.iter().map(|&column| row[column]));
    projection.weight = projection.weight.replaced(columns.collect(), kept.len());
}

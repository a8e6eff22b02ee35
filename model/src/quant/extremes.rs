//! The least and the largest value of each column that linear layers read on calibration text.

use burn::tensor::{DType, Tensor};

use crate::batch::TokenBatch;
use crate::decoder::Decoder;

/// Of one array that linear layers read, over all tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct InputExtremes {
    /// `[in]`
    pub least: Vec<f32>,
    /// `[in]`
    pub largest: Vec<f32>,
}

impl InputExtremes {
    /// From the least value of all columns to the largest.
    pub fn range(&self) -> [f32; 2] {
        [
            self.least.iter().copied().fold(f32::INFINITY, f32::min),
            (self.largest.iter().copied()).fold(f32::NEG_INFINITY, f32::max),
        ]
    }

    /// The columns with a magnitude above `threshold`, rising.
    pub fn columns_above(&self, threshold: f32) -> Vec<u32> {
        let columns = self.least.iter().zip(&self.largest).enumerate();
        let above = columns.filter(|(_, (least, largest))| largest.max(-**least) > threshold);
        above.map(|(column, _)| column as u32).collect()
    }
}

/// For each block what it reads, in the order of [`crate::block::LinearInput::ALL`]. The batches have no padding; each goes through
/// the decoder as a whole.
pub fn input_extremes(
    decoder: &Decoder,
    batches: &[TokenBatch],
    progress: &mut dyn FnMut(usize),
) -> Vec<[InputExtremes; 4]> {
    let mut found: Vec<[Option<[Tensor<2>; 2]>; 4]> = Vec::new();
    found.resize_with(decoder.blocks.len(), Default::default);
    for (number, batch) in batches.iter().enumerate() {
        decoder.observe(batch, &mut |layer, input, x| {
            let x = x.clone().cast(DType::F32);
            let [least, largest] = [x.clone().min_dim(0), x.max_dim(0)];
            let seen = &mut found[layer][input as usize];
            *seen = Some(match seen.take() {
                Some([low, high]) => [low.min_pair(least), high.max_pair(largest)],
                None => [least, largest],
            });
        });
        progress(number + 1);
    }
    let values = |tensor: Tensor<2>| {
        let values = tensor.into_data().try_to_vec();
        values.expect("the extremes were cast to f32")
    };
    let read = |seen: Option<[Tensor<2>; 2]>| {
        let [least, largest] = seen.map_or_else(Default::default, |pair| pair.map(values));
        InputExtremes { least, largest }
    };
    found.into_iter().map(|block| block.map(read)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::LinearInput;
    use crate::build::Placement;
    use crate::config::Architecture;
    use crate::load::random_decoder;
    use crate::weights::test_files::tiny_config;

    #[test]
    fn every_token_of_every_batch_counts() {
        let decoder = random_decoder(&tiny_config(Architecture::Llama), &Placement::cpu(), 3);
        let batches = [[1, 5, 2, 7, 3], [6, 6, 0, 4, 1]].map(|ids| TokenBatch::single(&ids));
        let found = input_extremes(&decoder, &batches, &mut |_| {});
        assert_eq!(found.len(), 2);
        for (layer, block) in found.iter().enumerate() {
            for input in LinearInput::ALL {
                let mut rows: Vec<Vec<f32>> = Vec::new();
                for batch in &batches {
                    decoder.observe(batch, &mut |at, of, x| {
                        if (at, of) == (layer, input) {
                            let values: Vec<f32> = x.to_data().try_to_vec().unwrap();
                            rows.extend(values.chunks(x.dims()[1]).map(<[f32]>::to_vec));
                        }
                    });
                }
                let found = &block[input as usize];
                assert_eq!((rows.len(), found.least.len()), (10, rows[0].len()));
                for column in 0..rows[0].len() {
                    let values = rows.iter().map(|row| row[column]);
                    let least = values.clone().fold(f32::INFINITY, f32::min);
                    let largest = values.fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(
                        (found.least[column], found.largest[column]),
                        (least, largest)
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_and_outliers_follow_from_the_columns() {
        let found = InputExtremes {
            least: vec![-1.0, -7.0, 0.0, 1.0],
            largest: vec![2.0, -0.5, 6.0, 6.5],
        };
        assert_eq!(found.range(), [-7.0, 6.5]);
        assert_eq!(found.columns_above(6.0), [1, 3]);
    }
}

//! What the linear layers of a decoder read on some text, block after block. The blocks before may have been quantised
//! already: then a block makes up for their errors, too (arXiv 2210.17323).

use burn::tensor::{DType, Int, Tensor};

use super::layers::QuantizeError;
use crate::batch::TokenBatch;
use crate::block::LinearInput;
use crate::decoder::Decoder;
use crate::ops::product::accumulate_transposed;

/// Tokens that go through a block together, unless one row has more: what is in memory beside the states of all.
const TOKENS: usize = 2048;

/// The text on its way through the blocks: in memory are the inputs of one block, `f32` for each token and channel.
pub struct Calibration {
    pieces: Vec<Piece>,
}

struct Piece {
    batch: TokenBatch,
    states: Tensor<2>,
    /// Which tokens are no padding; `None` when all are.
    real: Option<Vec<i32>>,
}

/// Sums over the tokens of what a linear layer reads.
pub struct InputStatistics {
    pub tokens: usize,
    /// Σ x·xᵀ, `[in, in]`.
    pub products: Vec<f32>,
    /// Σ |x|, `[in]`.
    pub magnitudes: Vec<f32>,
}

impl Calibration {
    /// The batches before the first block.
    ///
    /// # Errors
    /// [`QuantizeError::NoTokens`] when there are none, or nothing but padding.
    pub fn new(decoder: &Decoder, batches: &[TokenBatch]) -> Result<Self, QuantizeError> {
        let pieces: Vec<_> = batches.iter().flat_map(pieces).collect();
        if pieces.is_empty() {
            return Err(QuantizeError::NoTokens);
        }
        let embed = |(batch, real): (TokenBatch, _)| Piece {
            states: decoder.embed(&batch.ids),
            batch,
            real,
        };
        Ok(Self {
            pieces: pieces.into_iter().map(embed).collect(),
        })
    }

    /// Shows what the linear layers of block `layer`, the next one, read: `[tokens, in]` without padding, some tokens at a
    /// time.
    pub fn observe(
        &self,
        decoder: &Decoder,
        layer: usize,
        see: &mut dyn FnMut(LinearInput, &Tensor<2>),
    ) {
        for piece in &self.pieces {
            let rotation = decoder.rotation(&piece.batch.positions);
            let pattern = decoder.pattern(&piece.batch, layer);
            let states = piece.states.clone();
            decoder.blocks[layer].observe(
                states,
                &rotation,
                &pattern,
                &mut |input, x| match &piece.real {
                    None => see(input, x),
                    Some(real) => {
                        let real = Tensor::<1, Int>::from_ints(real.as_slice(), &x.device());
                        see(input, &x.clone().select(0, real));
                    }
                },
            );
        }
    }

    /// Sends the text through block `layer`.
    pub fn advance(&mut self, decoder: &Decoder, layer: usize) {
        for piece in &mut self.pieces {
            let rotation = decoder.rotation(&piece.batch.positions);
            let pattern = decoder.pattern(&piece.batch, layer);
            let states = piece.states.clone();
            piece.states = decoder.blocks[layer].forward(states, &rotation, &pattern, None);
        }
    }

    /// What block `layer` reads, in the order of [`LinearInput::ALL`].
    pub fn statistics(&self, decoder: &Decoder, layer: usize) -> [InputStatistics; 4] {
        let mut sums = [const { Sums::NONE }; 4];
        self.observe(decoder, layer, &mut |input, x| sums[input as usize].add(x));
        sums.map(Sums::read)
    }
}

/// A batch in parts of whole rows, without those that are nothing but padding.
fn pieces(batch: &TokenBatch) -> Vec<(TokenBatch, Option<Vec<i32>>)> {
    let rows = (TOKENS / batch.length.max(1)).max(1);
    let parts = (0..batch.rows).step_by(rows);
    let parts = parts.map(|first| batch.rows(first..(first + rows).min(batch.rows)));
    let with_real = |part: TokenBatch| {
        let real = part.segments.iter().enumerate();
        let real: Vec<i32> = real
            .filter(|(_, segment)| **segment != 0)
            .map(|(at, _)| at as i32)
            .collect();
        let is_whole = real.len() == part.tokens();
        (!real.is_empty()).then_some((part, (!is_whole).then_some(real)))
    };
    parts.filter_map(with_real).collect()
}

struct Sums {
    tokens: usize,
    products: Option<Tensor<2>>,
    magnitudes: Option<Tensor<2>>,
}

impl Sums {
    const NONE: Self = Self {
        tokens: 0,
        products: None,
        magnitudes: None,
    };

    fn add(&mut self, x: &Tensor<2>) {
        let x = x.clone().cast(DType::F32);
        self.tokens += x.dims()[0];
        self.products = Some(accumulate_transposed(self.products.take(), &x, &x));
        let magnitudes = x.abs().sum_dim(0);
        self.magnitudes = Some(match self.magnitudes.take() {
            Some(sum) => sum + magnitudes,
            None => magnitudes,
        });
    }

    fn read(self) -> InputStatistics {
        let values = |sum: Option<Tensor<2>>| {
            let sum = sum.expect("every piece of a calibration has tokens");
            sum.into_data().try_to_vec().expect("the sums are f32")
        };
        InputStatistics {
            tokens: self.tokens,
            products: values(self.products),
            magnitudes: values(self.magnitudes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Placement;
    use crate::config::Architecture;
    use crate::load::random_decoder;
    use crate::ops::check::assert_close;
    use crate::weights::test_files::tiny_config;

    fn batch(rows: usize, length: usize) -> TokenBatch {
        TokenBatch {
            rows,
            length,
            ids: (0..rows * length).map(|at| (at * 5 % 8) as u32).collect(),
            positions: (0..rows).flat_map(|_| 0..length as u32).collect(),
            segments: vec![1; rows * length],
        }
    }

    #[test]
    fn the_text_passes_the_blocks_as_it_does_in_the_forward_pass() {
        for architecture in [Architecture::Qwen2, Architecture::Qwen3] {
            let decoder = random_decoder(&tiny_config(architecture), &Placement::cpu(), 3);
            let batch = batch(5, 7);
            let mut calibration = Calibration::new(&decoder, std::slice::from_ref(&batch)).unwrap();
            let (_, layers) = decoder.hidden_and_layers(&batch, &[1, 2]);
            for layer in 0..2 {
                let mut widths = Vec::new();
                calibration.observe(&decoder, layer, &mut |input, x| {
                    assert_eq!(x.dims()[0], 35);
                    for linear in input.readers(&decoder.blocks[layer]) {
                        assert_eq!(x.dims()[1], linear.weight.columns());
                    }
                    widths.push(x.dims()[1]);
                });
                assert_eq!(widths, [32, 32, 32, 64]);
                calibration.advance(&decoder, layer);
                let states = &calibration.pieces[0].states;
                assert_close(states, layers.get(layer + 1).unwrap(), 1e-6);
            }
        }
    }

    #[test]
    fn padding_does_not_count() {
        let decoder = random_decoder(&tiny_config(Architecture::Llama), &Placement::cpu(), 3);
        let mut padded = batch(2, 6);
        padded.segments[4..6].fill(0);
        padded.segments[6..].fill(0);
        let short = batch(2, 6).rows(0..1);
        let short = TokenBatch {
            length: 4,
            ids: short.ids[..4].to_vec(),
            positions: short.positions[..4].to_vec(),
            segments: short.segments[..4].to_vec(),
            ..short
        };
        let statistics = |batches: &[TokenBatch]| {
            let calibration = Calibration::new(&decoder, batches).unwrap();
            calibration.statistics(&decoder, 0)
        };
        for (a, b) in statistics(&[padded.clone()])
            .iter()
            .zip(statistics(&[short]))
        {
            assert_eq!((a.tokens, b.tokens), (4, 4));
            for (a, b) in a.products.iter().zip(&b.products) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{a} {b}");
            }
            for (a, b) in a.magnitudes.iter().zip(&b.magnitudes) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-3), "{a} {b}");
            }
        }
        padded.segments.fill(0);
        let nothing = Calibration::new(&decoder, &[padded]).err();
        assert_eq!(nothing, Some(QuantizeError::NoTokens));
    }
}

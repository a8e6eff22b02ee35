//! The loss on data that is not trained on.

use burn::tensor::{DType, Int, Tensor, TensorData};
use datasets::loader::BatchLoader;
use model::decoder::Decoder;
use model::phase;
use model::score::label_log_probs;
use teacher::signal::token_batch;

use crate::objective::dpo::PairMetrics;

/// What was measured on held-out data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heldout {
    Tokens(HeldoutLoss),
    Pairs(HeldoutPairs),
}

impl Heldout {
    /// Nats a token, or the loss of a pair.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Tokens(loss) => loss.mean(),
            Self::Pairs(pairs) => pairs.loss,
        }
    }
}

/// Means over held-out pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldoutPairs {
    pub loss: f64,
    pub metrics: PairMetrics,
}

/// Sum of negative log-likelihoods and the number of tokens that it is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldoutLoss {
    pub nll_sum: f64,
    pub tokens: usize,
}

impl HeldoutLoss {
    /// Nats a token.
    pub fn mean(&self) -> f64 {
        self.nll_sum / self.tokens.max(1) as f64
    }
}

/// Cross-entropy over the supervised tokens of one pass through the loader.
pub fn heldout_loss(decoder: &Decoder, loader: &BatchLoader) -> HeldoutLoss {
    let _phase = phase!("held-out loss");
    let mut loss = HeldoutLoss {
        nll_sum: 0.0,
        tokens: 0,
    };
    for number in 0..loader.batches_per_epoch() {
        let batch = loader.batch(number);
        let positions: Vec<usize> = (0..batch.supervised.len())
            .filter(|&i| batch.supervised[i])
            .collect();
        if positions.is_empty() {
            continue;
        }
        let hidden = decoder.hidden(&token_batch(&batch));
        let index: Vec<i32> = positions.iter().map(|&i| i as i32).collect();
        let data = TensorData::new(index, [positions.len()]);
        let index = Tensor::<1, Int>::from_data(data, (&hidden.device(), DType::I32));
        let targets: Vec<u32> = positions.iter().map(|&i| batch.targets[i]).collect();
        let log_probs = label_log_probs(decoder, &hidden.select(0, index), &targets);
        loss.nll_sum -= log_probs.iter().sum::<f64>();
        loss.tokens += targets.len();
    }
    loss
}

//! Losses over slices: no tensors here, so that they can be read and tested by themselves.
//!
//! Notation: p is the teacher's and q the student's distribution at one position, T a temperature. The total is
//! `Σ weight · loss` over the listed entries, summed over the vocabulary and over supervised positions, and scaled once by
//! the caller (by 1/N over the *global* batch). KL, JSD and skew entries are multiplied by T², which keeps the size of their
//! gradients (arXiv 1503.02531); total variation, hidden states and cross-entropy are not.
//!
//! - [`config`], [`entries`]: what a recipe lists, and how it is ordered for the kernel.
//! - one file a loss: [`forward_kl`], [`reverse_kl`], [`jsd`], [`skew_kl`], [`skew_reverse_kl`], [`tvd`],
//!   [`universal_logit`], [`cross_entropy`], [`hidden`].
//! - [`row`], [`rows`]: one position, and many in parallel.
//! - [`sparse`], [`sparse_formula`]: against a teacher of which only a few tokens a position are known.
//! - [`formula`]: the same as tensor formulas, and `cube`: as kernels for devices.
//! - [`preference`], [`pair_loss`]: losses of pairs of answers, and their way through the head.
//! - [`sums`]: where the values add up.
//! - `divergence`, `mixture`, `softmax`, `block`: what they are made of.

mod block;
pub mod config;
pub mod cross_entropy;
#[cfg(feature = "cube")]
pub mod cube;
mod divergence;
pub mod entries;
pub mod formula;
pub mod forward_kl;
pub mod hidden;
pub mod jsd;
pub mod linear_loss;
mod mixture;
pub mod pair_loss;
pub mod preference;
pub mod reverse_kl;
pub mod row;
pub mod rows;
pub mod skew_kl;
pub mod skew_reverse_kl;
mod softmax;
pub mod sparse;
pub mod sparse_formula;
pub mod sums;
pub mod tvd;
pub mod universal_logit;

#[cfg(test)]
mod tests;

pub use config::{LossConfig, LossConfigError};
pub use cross_entropy::label_log_probs;
pub use entries::LossEntries;
pub use hidden::{HiddenLoss, hidden_rows};
pub use row::accumulate_row;
pub use rows::{Labels, LossRowsError, Vocabulary, loss_rows};
pub use sums::LossSums;

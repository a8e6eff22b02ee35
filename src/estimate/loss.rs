//! What the loss takes: logits of some positions at a time, never of the whole batch.
//!
//! A chunk has about 48 MiB of logits (`model::score::chunk_rows`): as many again of a teacher that is there, and on the way
//! back a sum over the head's rows in parts of 4096, each `[positions, hidden]`.

use model::score::chunk_rows;
use trainer::loss::linear_loss::even_chunk;

use super::activations::{Gradients, Numbers, Pass};
use super::ledger::{Ledger, Part};

const PANEL_ROWS: usize = 4096;

/// What is computed at the supervised positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossShape {
    /// Supervised positions of a microbatch.
    pub positions: usize,
    /// Width and vocabulary of a teacher whose logits are compared.
    pub teacher: Option<(usize, usize)>,
    /// Whether the losses need logits at all.
    pub logits: bool,
}

/// Logits of the positions and what becomes of them; the head's gradient gathers.
pub fn replay(
    ledger: &mut Ledger,
    pass: &Pass,
    gradients: &mut Gradients,
    loss: LossShape,
    head: (String, bool),
) {
    if !loss.logits || loss.positions == 0 {
        return;
    }
    let config = &pass.model.config;
    let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
    let widest = vocabulary.max(loss.teacher.map_or(0, |(_, vocabulary)| vocabulary));
    let rows = even_chunk(loss.positions, chunk_rows(widest));
    let Numbers {
        weights,
        activations,
        packs,
        ..
    } = pass.numbers;
    let (head, trained) = head;
    // On a device the head is cast once for all chunks.
    let cast = (!packs).then(|| ledger.take(Part::LossChunks, vocabulary * hidden * activations));
    let chunks = loss.positions.div_ceil(rows).min(2);
    for _ in 0..chunks {
        let part = Part::LossChunks;
        let states = ledger.take(part, rows * hidden * activations);
        let logits = ledger.take(part, rows * vocabulary * activations);
        if let Some((width, vocabulary)) = loss.teacher {
            let states = ledger.take(part, rows * width * activations);
            let logits = ledger.take(part, rows * vocabulary * activations);
            ledger.give(states);
            ledger.give(logits);
        }
        let others = match packs {
            true => vocabulary.div_ceil(PANEL_ROWS).max(1),
            false => 1,
        };
        let parts: Vec<_> = (0..others)
            .map(|_| ledger.take(part, rows * hidden * activations))
            .collect();
        let mut parts = parts.into_iter();
        let d_chunk = parts.next();
        ledger.give_all(parts);
        if trained {
            (gradients.entry(head.clone()))
                .or_insert_with(|| ledger.take(Part::Gradients, vocabulary * hidden * weights));
        }
        ledger.give_all(d_chunk);
        ledger.give_all([logits, states]);
    }
    ledger.give_all(cast);
}

/// Logits of given positions without a gradient: held-out loss, evaluations, targets to be stored.
pub fn score(ledger: &mut Ledger, positions: usize, hidden: usize, vocabulary: usize) {
    let rows = chunk_rows(vocabulary).min(positions);
    let states = ledger.take(Part::LossChunks, rows * hidden * 4);
    let logits = ledger.take(Part::LossChunks, rows * vocabulary * 4);
    ledger.give_all([states, logits]);
}

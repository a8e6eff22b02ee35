//! A model and what was made of it on the same text: the loss of both, and how far their distributions are apart.

use burn::tensor::{DType, Tensor};
use model::decoder::Decoder;
use model::score::chunk_rows;
use model::{phase, step};

use crate::logit_comparison::{LogitComparison, LogitDifference};
use crate::perplexity::{
    PerplexityConfig, PerplexityError, batch_of, groups, positions_and_targets, scored_tokens,
    windows_to_score,
};

/// Compares two models of one vocabulary at every position that [`crate::perplexity::perplexity`] scores. Logits are
/// held some positions at a time. `progress` hears how many tokens are scored, and of how many.
///
/// # Errors
/// As [`crate::perplexity::perplexity`].
pub fn compare_models(
    first: &Decoder,
    second: &Decoder,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<LogitDifference, PerplexityError> {
    let shape = &first.config;
    let (context, rows) = (shape.max_position_embeddings, shape.vocab_size);
    let windows = windows_to_score(context, rows, documents, config)?;
    let (mut done, total) = (0, scored_tokens(&windows));
    let mut comparison = LogitComparison::default();
    for group in groups(&windows) {
        let _span = step!("batch");
        let batch = batch_of(documents, group);
        let hidden = {
            let _phase = phase!("forward");
            [first.hidden(&batch), second.hidden(&batch)]
        };
        let _phase = phase!("logits");
        for (positions, targets) in positions_and_targets(documents, group) {
            let rows = chunk_rows(first.config.vocab_size);
            for (number, targets) in targets.chunks(rows).enumerate() {
                let start = positions.start + number * rows;
                let [first, second] = [(first, &hidden[0]), (second, &hidden[1])]
                    .map(|(decoder, hidden)| logits(decoder, hidden, start, targets.len()));
                let labels: Vec<_> = targets.iter().copied().map(Some).collect();
                comparison.add_labelled(&labels, &first, &second);
                done += targets.len() as u64;
            }
        }
        progress(done, total);
    }
    Ok(comparison.report())
}

fn logits(decoder: &Decoder, hidden: &Tensor<2>, start: usize, count: usize) -> Vec<f32> {
    let width = hidden.dims()[1];
    let rows = hidden.clone().slice([start..start + count, 0..width]);
    let logits = decoder.logits(&rows).cast(DType::F32).into_data();
    logits.try_to_vec().expect("logits were cast to f32")
}

#[cfg(test)]
mod tests {
    use model::build::Placement;
    use model::load::load_decoder;
    use model::weights::checkpoint::Checkpoint;

    use super::*;
    use crate::logit_comparison::all_logits;

    #[test]
    fn windows_that_hold_a_document_give_what_whole_logits_give() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/checkpoints/llama_gqa"
        );
        let checkpoint = Checkpoint::open(path.as_ref()).unwrap();
        let first = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
        let mut second = first.clone();
        second.keep_layers(&[0]).unwrap();
        let vocabulary = first.config.vocab_size as u32;
        let documents: Vec<Vec<u32>> = [9, 14]
            .map(|count| (0..count).map(|i| (i * i + 3) % vocabulary).collect())
            .into();
        let config = |window, stride| PerplexityConfig {
            window: Some(window),
            stride: Some(stride),
            limit: None,
        };
        let mut heard = Vec::new();
        let found = compare_models(
            &first,
            &second,
            &documents,
            &config(16, 8),
            &mut |done, of| heard.push((done, of)),
        );
        let found = found.unwrap();
        assert_eq!(heard, [(8, 21), (21, 21)]);
        let mut expected = LogitComparison::default();
        for document in &documents {
            let inputs = &document[..document.len() - 1];
            let labels: Vec<_> = document[1..].iter().copied().map(Some).collect();
            let [a, b] = [&first, &second].map(|decoder| all_logits(decoder, inputs));
            expected.add_labelled(&labels, &a, &b);
        }
        let expected = expected.report();
        assert_eq!(found.tokens, 21);
        assert!(found.mean_kl > 1e-3, "{found:?}");
        for (a, b) in [
            (found.mean_kl, expected.mean_kl),
            (found.nll_first, expected.nll_first),
            (found.nll_second, expected.nll_second),
        ] {
            assert!((a - b).abs() <= 1e-5 * b, "{found:?} {expected:?}");
        }
        let short = compare_models(&first, &second, &documents, &config(4, 2), &mut |_, _| {});
        assert_eq!(short.unwrap().tokens, 21);
    }
}

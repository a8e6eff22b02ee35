//! Texts as vectors: the mean of a decoder's last hidden states over the tokens of each.

use std::ops::ControlFlow;

use burn::tensor::DType;
use model::batch::TokenBatch;
use model::decoder::Decoder;

/// Tokens that are computed together, padding included; a longer sequence goes alone.
const TOKENS_AT_A_TIME: usize = 2048;

/// The mean over its tokens of the normalised hidden states behind the last block, `[sequences, hidden]`, row-major and
/// in the order of `sequences`. One without tokens is a row of zeros.
///
/// Sequences are computed by length, those of a batch padded on the right to its longest. Nobody sees padding, and it is
/// no part of a mean. `progress` hears of each batch how many sequences it has, and may end it all: then there is nothing.
pub fn mean_pooled(
    decoder: &Decoder,
    sequences: &[Vec<u32>],
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Option<Vec<f32>> {
    let hidden_size = decoder.config.hidden_size;
    let mut means = vec![0.0; sequences.len() * hidden_size];
    let mut order: Vec<usize> = (0..sequences.len())
        .filter(|&number| !sequences[number].is_empty())
        .collect();
    order.sort_by_key(|&number| sequences[number].len());
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        // Rising lengths: the last that fits is the longest.
        let fits = |count: &usize| sequences[rest[count - 1]].len() * count <= TOKENS_AT_A_TIME;
        let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        let (batch, others) = rest.split_at(count);
        rest = others;
        let padded = padded(sequences, batch);
        let states = decoder.hidden(&padded).cast(DType::F32).into_data();
        let states: Vec<f32> = states.iter::<f32>().collect();
        for (row, &number) in batch.iter().enumerate() {
            let first = row * padded.length * hidden_size;
            let tokens = sequences[number].len();
            let states = &states[first..first + tokens * hidden_size];
            let mean = &mut means[number * hidden_size..(number + 1) * hidden_size];
            for (column, mean) in mean.iter_mut().enumerate() {
                let values = states[column..].iter().step_by(hidden_size);
                *mean = (values.map(|&value| f64::from(value)).sum::<f64>() / tokens as f64) as f32;
            }
        }
        if progress(count).is_break() {
            return None;
        }
    }
    Some(means)
}

fn padded(sequences: &[Vec<u32>], batch: &[usize]) -> TokenBatch {
    let lengths = batch.iter().map(|&number| sequences[number].len());
    let length = lengths.max().unwrap_or(0);
    let mut padded = TokenBatch {
        rows: batch.len(),
        length,
        ids: vec![0; batch.len() * length],
        positions: (0..length as u32)
            .cycle()
            .take(batch.len() * length)
            .collect(),
        segments: vec![0; batch.len() * length],
    };
    for (row, &number) in batch.iter().enumerate() {
        let tokens = row * length..row * length + sequences[number].len();
        padded.ids[tokens.clone()].copy_from_slice(&sequences[number]);
        padded.segments[tokens].fill(1);
    }
    padded
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use model::build::Placement;
    use model::load::load_decoder;
    use model::weights::checkpoint::Checkpoint;
    use safetensors::SafeTensors;

    use super::*;

    fn pooled(decoder: &Decoder, sequences: &[Vec<u32>]) -> Vec<f32> {
        mean_pooled(decoder, sequences, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    /// Of sequences of different lengths, `tests/golden/make_embeddings.py` ran each alone.
    #[test]
    fn means_are_those_of_transformers_hidden_states() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        for name in ["llama_gqa", "qwen2_window"] {
            let checkpoint = golden.join("checkpoints").join(name);
            let checkpoint = Checkpoint::open(&checkpoint).unwrap();
            let decoder = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
            let bytes = std::fs::read(golden.join("embeddings.safetensors")).unwrap();
            let arrays = SafeTensors::deserialize(&bytes).unwrap();
            let integers = |key: &str| -> Vec<usize> {
                let data = arrays.tensor(key).unwrap().data();
                let values = data
                    .chunks(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()));
                values.map(|value| value as usize).collect()
            };
            let (ids, lengths) = (integers("ids"), integers("lengths"));
            let expected = arrays.tensor(name).unwrap().data();
            let expected = expected
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let expected: Vec<f32> = expected.collect();

            let mut rest = ids.as_slice();
            let sequences: Vec<Vec<u32>> = (lengths.iter())
                .map(|&length| {
                    let (sequence, others) = rest.split_at(length);
                    rest = others;
                    sequence.iter().map(|&id| id as u32).collect()
                })
                .collect();
            let found = pooled(&decoder, &sequences);
            let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0, f32::max);
            println!("{name}: largest difference {largest:e}");
            assert_eq!(found.len(), expected.len());
            // Both sides round to f32 in each of their blocks.
            assert!(largest < 1e-5, "{name}: {largest}");
            assert_eq!(found, pooled(&decoder, &sequences));
        }
    }

    #[test]
    fn a_sequence_without_tokens_is_zeros_and_long_ones_go_alone() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
        let checkpoint = Checkpoint::open(&golden.join("llama_tied")).unwrap();
        let decoder = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
        let long: Vec<u32> = (0..3000).map(|id| id % 80).collect();
        let found = pooled(&decoder, &[long, Vec::new(), vec![3, 4]]);
        let rows: Vec<&[f32]> = found.chunks(decoder.config.hidden_size).collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].iter().all(|&value| value == 0.0));
        assert!(rows[0].iter().all(|value| value.is_finite()));
        assert_eq!(rows[2], pooled(&decoder, &[vec![3, 4]]));
        assert!(pooled(&decoder, &[]).is_empty());
        let stop = &mut |_| ControlFlow::Break(());
        assert_eq!(mean_pooled(&decoder, &[vec![3, 4]], stop), None);
    }
}

//! Log-probabilities of answers under the reference model: computed once, before training changes anything, and kept in a file
//! of the stage.
//!
//! `reference.safetensors` holds `train` and perhaps `heldout`, F64, one number a sample, NaN where a sample is not used; its
//! metadata are the digests of what they follow from, as one text, because only that has an order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use datasets::loader::BatchLoader;
use model::decoder::Decoder;
use model::phase;
use model::weights::staged_file::replace_file;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::dpo::answer_log_probs;

/// Of the model, the tokens and whatever else the numbers follow from, by name.
pub type Digests = BTreeMap<&'static str, String>;

fn metadata(digests: &Digests) -> HashMap<String, String> {
    let described = serde_json::json!(digests).to_string();
    HashMap::from([("digests".to_string(), described)])
}

/// The log-probability of each sample of the loader's corpus that `pairs` name; None when `stop` says so before the end.
pub fn reference_log_probs(
    decoder: &Decoder,
    loader: &BatchLoader,
    pairs: &[u32],
    rows: usize,
    stop: &dyn Fn() -> bool,
) -> Option<Vec<f64>> {
    let _phase = phase!("reference");
    let mut found = vec![f64::NAN; loader.corpus().len()];
    for batch in loader.batches_of_pairs(pairs, rows) {
        if stop() {
            return None;
        }
        let log_probs = answer_log_probs(decoder, &batch);
        for (placed, log_prob) in batch.pieces.iter().zip(log_probs) {
            found[placed.piece.sample as usize] = log_prob;
        }
    }
    Some(found)
}

/// Whether the log-probabilities of all these pairs are known.
pub fn covers(log_probs: &[f64], samples: usize, pairs: &[u32]) -> bool {
    let known = |at: u32| log_probs.get(at as usize).is_some_and(|x| x.is_finite());
    log_probs.len() == samples && pairs.iter().all(|&pair| known(pair) && known(pair + 1))
}

/// What a file holds, by data; None where there is none, or one that other things went into.
pub fn read(path: &Path, digests: &Digests) -> Option<HashMap<String, Vec<f64>>> {
    let bytes = std::fs::read(path).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    if header.metadata().as_ref() != Some(&metadata(digests)) {
        return None;
    }
    let file = SafeTensors::deserialize(&bytes).ok()?;
    let values = |data: &[u8]| {
        let numbers = data.chunks_exact(8);
        numbers
            .map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")))
            .collect()
    };
    let tensors = file.tensors().into_iter();
    let of_doubles = tensors.filter(|(_, tensor)| tensor.dtype() == Dtype::F64);
    Some(
        of_doubles
            .map(|(name, tensor)| (name, values(tensor.data())))
            .collect(),
    )
}

/// Writes the file whole or not at all.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, digests: &Digests, log_probs: &[(&str, &[f64])]) -> std::io::Result<()> {
    let invalid = |error: safetensors::SafeTensorError| std::io::Error::other(error);
    let bytes: Vec<Vec<u8>> = (log_probs.iter())
        .map(|(_, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = (log_probs.iter().zip(&bytes)).map(|((name, values), bytes)| {
        let view = TensorView::new(Dtype::F64, vec![values.len()], bytes);
        view.map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let bytes = safetensors::serialize(views, Some(metadata(digests))).map_err(invalid)?;
    replace_file(path, ".partial-", &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_back_what_it_holds_and_only_for_the_same_digests() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("reference.safetensors");
        let digests = |model: &str| Digests::from([("model", model.to_string())]);
        assert_eq!(read(&path, &digests("a")), None);
        let train = [-1.5, -2.25, f64::NAN, f64::NAN, -3.0, -0.5];
        write(&path, &digests("a"), &[("train", &train), ("heldout", &[])]).unwrap();
        assert_eq!(read(&path, &digests("b")), None);
        let found = read(&path, &digests("a")).unwrap();
        assert_eq!(found["heldout"], Vec::<f64>::new());
        assert_eq!(found["train"][..2], train[..2]);
        assert!(covers(&found["train"], 6, &[0, 4]));
        assert!(!covers(&found["train"], 6, &[0, 2]) && !covers(&found["train"], 8, &[0]));
        std::fs::write(&path, "torn").unwrap();
        assert_eq!(read(&path, &digests("a")), None);
    }
}

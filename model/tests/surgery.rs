//! Surgery against plain torch, and what transformers computes from the result. `golden/make_surgery.py` made the
//! numbers.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::Decoder;
use model::load::{load_decoder, save_decoder};
use model::surgery::error::SurgeryError;
use model::surgery::gqa::Pooling;
use model::surgery::width::ChannelImportance;
use model::weights::checkpoint::Checkpoint;
use model::weights::dtype::WeightDtype;
use model::weights::staged_directory::StagedDirectory;
use safetensors::SafeTensors;

const SEED: u64 = 7;

fn checkpoint(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("../tests/golden/checkpoints").join(name)
}

fn open(directory: &Path) -> Decoder {
    load_decoder(&Checkpoint::open(directory).unwrap(), &Placement::cpu()).unwrap()
}

fn decoder(name: &str) -> Decoder {
    open(&checkpoint(name))
}

struct Golden(Vec<u8>);

impl Golden {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/surgery.safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).expect(name).data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        let four = bytes.chunks_exact(4);
        four.map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn doubles(&self, name: &str) -> Vec<f64> {
        let bytes = self.bytes(name);
        let eight = bytes.chunks_exact(8);
        eight
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

/// The two rows of 24 ids that every checkpoint's golden logits have.
fn batch(name: &str) -> TokenBatch {
    let bytes = std::fs::read(checkpoint(name).join("logits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap().data().chunks_exact(8);
    let ids: Vec<u32> = ids
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    TokenBatch {
        rows: 2,
        length: 24,
        positions: (0..2).flat_map(|_| 0..24).collect(),
        segments: vec![1; 48],
        ids,
    }
}

/// Of the first row, through the files that the decoder is written to.
fn logits_when_read_again(decoder: &Decoder, batch: &TokenBatch) -> Vec<f32> {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("model");
    let staged = StagedDirectory::new(&target).unwrap();
    save_decoder(decoder, &staged, WeightDtype::F32).unwrap();
    staged.commit().unwrap();
    let again = open(&target);
    assert_eq!(again.config, decoder.config);
    logits(&again, batch)
}

fn logits(decoder: &Decoder, batch: &TokenBatch) -> Vec<f32> {
    let logits: Tensor<2> = decoder.logits(&decoder.hidden(batch));
    let first = logits.slice(0..batch.length).cast(DType::F32);
    first.into_data().try_to_vec().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn values(decoder: &Decoder) -> Vec<(String, Vec<f32>)> {
    let arrays = decoder.arrays();
    arrays
        .map(|array| (array.name().to_owned(), array.values()))
        .collect()
}

fn measured(decoder: &Decoder, batch: &TokenBatch, width: usize) -> ChannelImportance {
    let mut importance = ChannelImportance::new(decoder, width).unwrap();
    importance.add(decoder, batch);
    importance
}

fn assert_scores(importance: &ChannelImportance, expected: &[f64]) {
    let scores = importance.scores().concat();
    assert_eq!(scores.len(), expected.len());
    for (score, expected) in scores.iter().zip(expected) {
        let distance = (score - expected).abs();
        assert!(distance <= 1e-5 * expected, "{score} for {expected}");
    }
}

#[test]
fn grouped_heads_equal_torch_and_the_logits_transformers() {
    let golden = Golden::open();
    for (name, kv_heads, pooling, called) in [
        ("llama_tied", 2, Pooling::Mean, "mean"),
        ("llama_tied", 2, Pooling::First, "first"),
        ("llama_tied", 2, Pooling::Random, "random"),
        ("llama_tied", 1, Pooling::Mean, "mean"),
        ("llama_bias", 1, Pooling::Mean, "mean"),
        ("llama_bias", 1, Pooling::Random, "random"),
        ("qwen2", 1, Pooling::First, "first"),
        ("qwen3", 1, Pooling::Mean, "mean"),
    ] {
        let mut decoder = decoder(name);
        decoder.group_kv_heads(kv_heads, pooling, SEED).unwrap();
        let prefix = format!("gqa.{name}.{kv_heads}.{called}");
        for block in &decoder.blocks {
            for projection in [&block.self_attn.k_proj, &block.self_attn.v_proj] {
                for array in projection.arrays() {
                    let place = array.name().replace(".self_attn", "");
                    let expected =
                        golden.floats(&format!("{prefix}{}", place.replacen("model", "", 1)));
                    // The sine and the cosine of another library may differ in the last bit.
                    let allowed = if pooling == Pooling::Random {
                        1e-8
                    } else {
                        0.0
                    };
                    let difference = largest_difference(&array.values(), &expected);
                    assert!(difference <= allowed, "{prefix} {place}: {difference:e}");
                }
            }
        }
        let ours = logits_when_read_again(&decoder, &batch(name));
        let difference = largest_difference(&ours, &golden.floats(&format!("{prefix}.logits")));
        println!("{prefix}: largest logit difference {difference:e}");
        assert!(difference <= 1e-4, "{prefix}: {difference}");
    }
}

#[test]
fn channels_equal_torch_and_the_logits_transformers() {
    let golden = Golden::open();
    for name in ["llama_bias", "mistral"] {
        let mut decoder = decoder(name);
        let batch = batch(name);
        let importance = measured(&decoder, &batch, 32);
        assert_scores(
            &importance,
            &golden.doubles(&format!("width.{name}.importance")),
        );
        let mut padded = batch.clone();
        padded.segments[24 + 14..].fill(0);
        assert_scores(
            &measured(&decoder, &padded, 32),
            &golden.doubles(&format!("width.{name}.padded")),
        );
        decoder.keep_channels(&importance.most_important());
        let ours = logits_when_read_again(&decoder, &batch);
        let difference = largest_difference(&ours, &golden.floats(&format!("width.{name}.logits")));
        println!("width.{name}: largest logit difference {difference:e}");
        assert!(difference <= 1e-4, "{name}: {difference}");
    }
}

#[test]
fn depth_and_width_together_equal_transformers() {
    let mut decoder = decoder("qwen2_window");
    let batch = batch("qwen2_window");
    let channels = measured(&decoder, &batch, 32).most_important();
    decoder.keep_layers(&[0, 2]).unwrap();
    decoder.keep_channels(&[channels[0].clone(), channels[2].clone()]);
    let ours = logits_when_read_again(&decoder, &batch);
    let expected = Golden::open().floats("both.qwen2_window.logits");
    let difference = largest_difference(&ours, &expected);
    println!("both: largest logit difference {difference:e}");
    assert!(difference <= 1e-4, "{difference}");
}

#[test]
fn keeping_everything_changes_nothing() {
    for name in ["llama_bias", "qwen2_window"] {
        let whole = decoder(name);
        let batch = batch(name);
        let mut kept = whole.clone();
        let all: Vec<usize> = (0..whole.blocks.len()).collect();
        let width = whole.config.intermediate_size;
        let channels = measured(&whole, &batch, width).most_important();
        kept.keep_layers(&all).unwrap();
        kept.keep_channels(&channels);
        for pooling in [Pooling::Mean, Pooling::First, Pooling::Random] {
            let kv_heads = whole.config.num_key_value_heads;
            kept.group_kv_heads(kv_heads, pooling, SEED).unwrap();
        }
        assert_eq!(kept.config, whole.config);
        assert_eq!(values(&kept), values(&whole));
        assert_eq!(logits(&kept, &batch), logits(&whole, &batch));
    }
}

#[test]
fn what_a_model_does_not_allow_is_told_and_leaves_it_whole() {
    let mut decoder = decoder("llama_tied");
    let before = values(&decoder);
    for (wanted, message) in [
        (0, "0 key/value heads cannot be made of 4"),
        (3, "hint: this model can have 1, 2 or 4"),
        (8, "8 key/value heads cannot be made of 4"),
    ] {
        let error = decoder.group_kv_heads(wanted, Pooling::Mean, SEED);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let (layer, layers) = (2, 2);
    assert_eq!(
        decoder.keep_layers(&[0, 2]),
        Err(SurgeryError::NoLayer { layer, layers })
    );
    for wanted in [0, 49] {
        let found = 48;
        assert_eq!(
            ChannelImportance::new(&decoder, wanted).err(),
            Some(SurgeryError::FfnWidth { wanted, found })
        );
    }
    assert_eq!(values(&decoder), before);
}

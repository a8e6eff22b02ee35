//! The decoder against transformers: logits of every supported family, packed samples, the key/value
//! cache, and the gradient of every parameter. `tests/golden/make_checkpoints.py` made the numbers.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::{Decoder, LayerStates};
use model::generate::engine::{GenerationConfig, generate};
use model::generate::sampling::{SamplingConfig, filtered_log_probs};
use model::load::load_decoder;
use model::weights::checkpoint::Checkpoint;
use safetensors::SafeTensors;

const CHECKPOINTS: [&str; 10] = [
    "llama_tied",
    "llama_untied",
    "llama_gqa",
    "llama3_rope",
    "llama_bias",
    "llama_linear_rope",
    "mistral",
    "qwen2",
    "qwen2_window",
    "qwen3",
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn decoder(name: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&golden().join("checkpoints").join(name)).unwrap();
    load_decoder(&checkpoint, &Placement::cpu()).unwrap()
}

struct Arrays(Vec<u8>);

impl Arrays {
    fn open(name: &str, file: &str) -> Self {
        Self(std::fs::read(golden().join("checkpoints").join(name).join(file)).unwrap())
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes
            .chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }
}

fn rows(ids: &[u32], rows: usize) -> TokenBatch {
    let length = ids.len() / rows;
    TokenBatch {
        rows,
        length,
        ids: ids.to_vec(),
        positions: (0..rows).flat_map(|_| 0..length as u32).collect(),
        segments: vec![1; ids.len()],
    }
}

fn values(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .clone()
        .cast(DType::F32)
        .into_data()
        .try_to_vec()
        .unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn logits_equal_transformers() {
    for name in CHECKPOINTS {
        let arrays = Arrays::open(name, "logits.safetensors");
        let decoder = decoder(name);
        let hidden = decoder.hidden(&rows(&arrays.integers("input_ids"), 2));
        let difference =
            largest_difference(&values(&decoder.logits(&hidden)), &arrays.floats("logits"));
        println!("{name}: largest logit difference {difference:e}");
        assert!(difference <= 1e-4, "{name}: {difference}");
    }
}

#[test]
fn packed_samples_do_not_see_each_other() {
    for name in ["llama_gqa", "mistral"] {
        let arrays = Arrays::open(name, "packed.safetensors");
        let decoder = decoder(name);
        let batch = TokenBatch {
            positions: arrays.integers("position_ids"),
            segments: arrays
                .integers("segment_ids")
                .iter()
                .map(|s| s + 1)
                .collect(),
            ..rows(&arrays.integers("input_ids"), 1)
        };
        let logits = values(&decoder.logits(&decoder.hidden(&batch)));
        assert!(
            largest_difference(&logits, &arrays.floats("logits")) <= 1e-4,
            "{name}"
        );
    }
}

#[test]
fn gradients_equal_pytorch_with_and_without_checkpointing() {
    let batch = Arrays::open("llama_gqa", "batch.safetensors");
    let expected = Arrays::open("llama_gqa", "gradients.safetensors");
    let mask = {
        let file = SafeTensors::deserialize(&batch.0).unwrap();
        file.tensor("mask").unwrap().data().to_vec()
    };
    let targets = batch.integers("targets");
    let count = mask.iter().filter(|&&m| m == 1).count() as f64;
    for checkpoint_blocks in [false, true] {
        let mut decoder = decoder("llama_gqa");
        let tokens = rows(&batch.integers("input_ids"), 2);
        let (hidden, _, tape) = decoder.forward_with_tape(&tokens, checkpoint_blocks, &[]);
        let logits = decoder.logits(&hidden);
        // d CE / d logits = (softmax − one-hot) / N on supervised rows.
        let probabilities = values(&burn::tensor::activation::softmax(logits.clone(), 1));
        let vocabulary = logits.dims()[1];
        let mut d_logits = probabilities;
        for (i, row) in d_logits.chunks_mut(vocabulary).enumerate() {
            row[targets[i] as usize] -= 1.0;
            let weight = f32::from(mask[i]) / count as f32;
            row.iter_mut().for_each(|x| *x *= weight);
        }
        let d_logits = model::ops::host::from_values(d_logits, logits.dims());
        let d_hidden = d_logits
            .clone()
            .matmul(decoder.head().parameter().unwrap().value.clone());
        decoder.head_mut().accumulate_product(&d_logits, &hidden);
        decoder.backward(tape, d_hidden, &LayerStates::default());
        for parameter in decoder.parameters() {
            let got = values(parameter.gradient.as_ref().expect(&parameter.name));
            let expected = expected.floats(&parameter.name);
            let norm = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
            let distance = got
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f32>()
                .sqrt();
            assert!(
                distance <= 1e-5 * norm.max(1e-3),
                "{}: {distance:e} of {norm:e}",
                parameter.name
            );
        }
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    let text = std::fs::read_to_string(golden().join("generation.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let decoder = decoder("llama_gqa");
    let ids =
        |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let cases = golden["greedy"]["cases"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt"])).collect();
    let config = GenerationConfig {
        sampling: SamplingConfig::default(),
        max_new_tokens: 16,
        eos_token_ids: vec![],
        vocabulary: decoder.config.vocab_size,
        rows: prompts.len(),
        shared: 0,
    };
    let together = generate(&decoder, &prompts, &config, &|_, _| 0.0, &mut |_, _| true);
    for (i, case) in cases.iter().enumerate() {
        assert_eq!(together[i], ids(&case["continuation"]));
        let alone = generate(
            &decoder,
            &prompts[i..=i],
            &config,
            &|_, _| 0.0,
            &mut |_, _| true,
        );
        assert_eq!(alone[0], together[i]);
    }
}

#[test]
fn a_row_that_ends_is_filled_with_the_next_prompt_and_changes_no_other() {
    for name in CHECKPOINTS {
        let decoder = decoder(name);
        let prompts: Vec<Vec<u32>> = (0..11_u32)
            .map(|i| {
                (0..1 + (7 * i) % 13)
                    .map(|t| (3 * i + 5 * t) % 31 + 1)
                    .collect()
            })
            .collect();
        for temperature in [0.0, 1.0] {
            let config = GenerationConfig {
                sampling: SamplingConfig {
                    temperature,
                    ..SamplingConfig::default()
                },
                max_new_tokens: 20,
                eos_token_ids: vec![],
                vocabulary: 30,
                rows: 3,
                shared: 0,
            };
            let draw = |prompt: usize, new: usize| ((prompt * 37 + new * 17) % 101) as f64 / 101.0;
            let ends = |prompt: usize, ids: &[u32]| ids.len() < 1 + (5 * prompt) % 17;
            let together = generate(&decoder, &prompts, &config, &draw, &mut |p, ids| {
                ends(p, ids)
            });
            for (i, together) in together.iter().enumerate() {
                let draw = |_, new| draw(i, new);
                let prompt = &prompts[i..=i];
                let alone = generate(&decoder, prompt, &config, &draw, &mut |_, ids| ends(i, ids));
                assert_eq!(alone[0], *together, "{name}, prompt {i}");
                assert_eq!(together.len(), 1 + (5 * i) % 17);
                assert!(together.iter().all(|id| *id < 30));
            }
        }
    }
}

#[test]
fn what_prompts_share_is_read_once_and_changes_nothing() {
    for name in CHECKPOINTS {
        let decoder = decoder(name);
        let shared: Vec<u32> = (0..9).map(|t| (5 * t) % 31 + 1).collect();
        let prompts: Vec<Vec<u32>> = (0..7_u32)
            .map(|i| {
                let rest = (0..1 + (3 * i) % 5).map(|t| (7 * i + 2 * t) % 31 + 1);
                shared.iter().copied().chain(rest).collect()
            })
            .collect();
        let continued = |shared: usize| {
            let config = GenerationConfig {
                sampling: SamplingConfig::default(),
                max_new_tokens: 12,
                eos_token_ids: vec![],
                vocabulary: decoder.config.vocab_size,
                rows: 3,
                shared,
            };
            // Rows end at different times, so that others take their places.
            let ends = |prompt: usize, ids: &[u32]| ids.len() < 3 + (5 * prompt) % 11;
            generate(&decoder, &prompts, &config, &|_, _| 0.0, &mut |p, ids| {
                ends(p, ids)
            })
        };
        assert_eq!(continued(9), continued(0), "{name}");
    }
}

#[test]
fn sampling_transforms_equal_transformers() {
    let text = std::fs::read_to_string(golden().join("generation.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sampling = &golden["sampling"];
    let logits: Vec<Vec<f32>> = serde_json::from_value(sampling["logits"].clone()).unwrap();
    let previous: Vec<Vec<u32>> = serde_json::from_value(sampling["previous"].clone()).unwrap();
    for case in sampling["cases"].as_array().unwrap() {
        let mut config: SamplingConfig = serde_json::from_value(case["settings"].clone()).unwrap();
        if case["settings"].get("temperature").is_none() {
            config.temperature = 1.0;
        }
        let expected: Vec<Vec<Option<f32>>> =
            serde_json::from_value(case["log_probs"].clone()).unwrap();
        for row in 0..logits.len() {
            let got = filtered_log_probs(&config, &logits[row], &previous[row]);
            for (got, expected) in got.iter().zip(&expected[row]) {
                match expected {
                    Some(expected) => assert!((got - expected).abs() < 1e-5, "{config:?}"),
                    None => assert_eq!(*got, f32::NEG_INFINITY, "{config:?}"),
                }
            }
        }
    }
}

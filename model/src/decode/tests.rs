//! The fused step against the tensor path, for every family that has golden checkpoints.

use std::path::Path;

use super::*;
use crate::build::Placement;
use crate::generate::sampling::argmax;
use crate::linear::lora::LoraConfig;
use crate::linear::{ActivationQuantization, ActivationScheme, Linear, Packed, Weight};
use crate::load::load_decoder;
use crate::ops::host::from_values;
use crate::quant::block_type::GgmlType;
use crate::random::normal_values;
use crate::weights::checkpoint::Checkpoint;

const STEPS: usize = 24;

/// Blocks of one matrix with the values of another, rounded.
fn packed(weight: &Weight, kind: GgmlType) -> Weight {
    let shape = [weight.rows(), weight.columns()];
    let values = weight.values();
    let bytes: Vec<u8> = match kind {
        GgmlType::Bf16 => values
            .iter()
            .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
            .collect(),
        GgmlType::Q8_0 => values.chunks(32).flat_map(q8_0).collect(),
        other => panic!("no blocks of {other:?} are made here"),
    };
    Weight::Packed(Packed::new(weight.name(), shape, kind, bytes).unwrap())
}

fn q8_0(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    let scale = half::f16::from_f32(largest / 127.0);
    let codes = values
        .iter()
        .map(|v| (v / scale.to_f32()).round().clamp(-127.0, 127.0) as i8 as u8);
    scale.to_le_bytes().into_iter().chain(codes).collect()
}

/// Packs every matrix: rows of whole blocks as Q8_0, the others as bf16.
fn pack(decoder: &mut Decoder) {
    let pack = |weight: &mut Weight| {
        let kind = match weight.columns().is_multiple_of(32) {
            true => GgmlType::Q8_0,
            false => GgmlType::Bf16,
        };
        *weight = packed(weight, kind);
    };
    pack(&mut decoder.embed_tokens);
    decoder.lm_head.iter_mut().for_each(pack);
    (decoder.linears_mut()).for_each(|linear| pack(&mut linear.weight));
}

/// Adapters of rank 3, whose second matrices are not zero, on most layers.
fn adapt(decoder: &mut Decoder) {
    let config = LoraConfig {
        rank: 3,
        targets: vec!["self_attn.*".into(), "up_proj".into(), "down_proj".into()],
        ..LoraConfig::default()
    };
    decoder.add_lora("default", &config, 1).unwrap();
    for lora in decoder.linears_mut().filter_map(Linear::adapter_mut) {
        let shape = lora.b.value.dims();
        let values = normal_values(shape[0] * shape[1], 2, &lora.b.name, 0.05);
        lora.b.value = from_values(values, shape);
    }
}

/// The largest difference of a logit over greedy continuations that both paths make.
fn largest_difference(decoder: &Decoder, prompts: &[Vec<u32>]) -> f32 {
    let mut fused = Continuation::new(decoder, prompts, 3);
    assert!(matches!(fused.state, State::Fused(_)));
    let mut tensors = Continuation::in_tensors(decoder, prompts);
    let mut worst = 0.0_f32;
    for step in 0..STEPS {
        let both = fused.logits().zip(tensors.logits());
        for (a, b) in both.flat_map(|(a, b)| a.iter().zip(b)) {
            worst = worst.max((a - b).abs());
        }
        let ids: Vec<u32> = fused.logits().map(argmax).collect();
        assert_eq!(ids, tensors.logits().map(argmax).collect::<Vec<_>>());
        let mut kept: Vec<usize> = (0..ids.len()).collect();
        if step == STEPS / 2 && kept.len() > 1 {
            kept.remove(0);
            fused.keep_rows(&kept);
            tensors.keep_rows(&kept);
        }
        let ids: Vec<u32> = kept.into_iter().map(|row| ids[row]).collect();
        fused.advance(&ids);
        tensors.advance(&ids);
        // Rows that come later, one of them longer than all that there are.
        if step == STEPS / 3 || step == 2 * STEPS / 3 {
            let late: Vec<Vec<u32>> = [2, 40]
                .map(|n| (1..=n).map(|i| i % 31 + 1).collect())
                .into();
            fused.add_rows(&late);
            tensors.add_rows(&late);
        }
    }
    worst
}

/// Several tokens at a time give the bits of one at a time. Returns how far tensors are from them, at most.
fn largest_difference_of_several(decoder: &Decoder, prompt: &[Vec<u32>]) -> f32 {
    let text: Vec<u32> = (0..22).map(|i| (5 * i) % 31 + 1).collect();
    let mut one = Continuation::new(decoder, prompt, 3);
    let mut steps = Vec::new();
    for id in &text {
        one.advance(&[*id]);
        steps.push(one.logits.clone());
    }
    let mut worst = 0.0_f32;
    let mut several = Continuation::new(decoder, prompt, 3);
    let mut tensors = Continuation::in_tensors(decoder, prompt);
    for (first, end, wanted) in [(0, 2, 2), (2, 7, 5), (7, 8, 1), (8, 22, 3)] {
        for (continuation, is_fused) in [(&mut several, true), (&mut tensors, false)] {
            // What was read and taken back leaves nothing.
            let length = prompt[0].len() + first;
            continuation.extend(&[30, 2, 11, 9], 1);
            continuation.truncate(length);
            continuation.extend(&text[first..end], wanted);
            let expected = steps[end - wanted..end].concat();
            match is_fused {
                true => assert_eq!(continuation.logits, expected),
                false => {
                    let pairs = continuation.logits.iter().zip(&expected);
                    worst = pairs.fold(worst, |worst, (a, b)| worst.max((a - b).abs()));
                }
            }
        }
    }
    worst
}

#[test]
fn equals_the_tensor_path_for_every_family_batch_and_form_of_weights() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let mut entries: Vec<_> = std::fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    assert!(entries.len() >= 10);
    let prompt = |length: u32, from: u32| (0..length).map(|i| (from + 7 * i) % 31 + 1).collect();
    let one: Vec<Vec<u32>> = vec![prompt(5, 2)];
    let three: Vec<Vec<u32>> = vec![prompt(3, 1), prompt(17, 9), prompt(9, 4)];
    for path in entries {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let mut decoder = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
        let differences = |decoder: &Decoder| {
            let batches = [&one, &three].map(|prompts| largest_difference(decoder, prompts));
            [
                batches[0],
                batches[1],
                largest_difference_of_several(decoder, &one),
            ]
        };
        let dense = differences(&decoder);
        pack(&mut decoder);
        let packed = differences(&decoder);
        adapt(&mut decoder);
        let adapted = differences(&decoder);
        let name = path.file_name().unwrap().display();
        println!("{name}: dense {dense:?}, packed {packed:?}, adapted {adapted:?}");
        assert!(
            dense
                .into_iter()
                .chain(packed)
                .chain(adapted)
                .all(|difference| difference <= 1e-4)
        );
    }
}

#[test]
fn the_same_bits_every_time() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/qwen3");
    let checkpoint = Checkpoint::open(&golden).unwrap();
    let decoder = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
    let logits = || {
        let mut continuation = Continuation::new(&decoder, &[vec![1, 2, 3], vec![4]], 4);
        for id in 0..20 {
            continuation.advance(&[id, id + 1]);
        }
        continuation.logits.clone()
    };
    let first = logits();
    assert!((0..5).all(|_| logits() == first));
}

#[test]
fn a_model_that_rounds_its_activations_goes_through_tensors() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/qwen3");
    let checkpoint = Checkpoint::open(&golden).unwrap();
    let mut decoder = load_decoder(&checkpoint, &Placement::cpu()).unwrap();
    let is_fused = |decoder: &Decoder| {
        let continuation = Continuation::new(decoder, &[vec![1, 2, 3]], 4);
        matches!(continuation.state, State::Fused(_))
    };
    assert!(is_fused(&decoder));
    let rounding = ActivationQuantization::per_token(ActivationScheme::Absmax);
    decoder.blocks[1].mlp.down_proj.activations = Some(rounding);
    assert!(!is_fused(&decoder));
}

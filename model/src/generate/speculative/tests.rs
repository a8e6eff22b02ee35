//! Drafts change nothing: token for token without chance, in distribution with it.

use std::path::Path;

use super::*;
use crate::build::Placement;
use crate::config::{Architecture, DecoderConfig, RopeConfig, RopeScaling};
use crate::decoder::Decoder;
use crate::generate::engine::generate;
use crate::load::{load_decoder, random_decoder};
use crate::random::Stream;
use crate::weights::checkpoint::Checkpoint;

fn golden(name: &str) -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let checkpoint = Checkpoint::open(&path.join(name)).unwrap();
    load_decoder(&checkpoint, &Placement::cpu()).unwrap()
}

/// One random layer and a vocabulary of that many tokens.
fn tiny(vocab_size: usize, seed: u64) -> Decoder {
    let config = DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        sliding_windows: vec![None],
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
    };
    random_decoder(&config, &Placement::cpu(), seed)
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig {
        sampling: SamplingConfig::default(),
        max_new_tokens,
        eos_token_ids: Vec::new(),
        vocabulary: usize::MAX,
        rows: 1,
        shared: 0,
    }
}

fn speculative(
    target: &Decoder,
    draft: &Decoder,
    tokens: usize,
    prompt: &[u32],
    config: &GenerationConfig,
    stop_after: usize,
) -> Continued {
    let shared = target.config.vocab_size.min(draft.config.vocab_size);
    let mut drafter = Drafter::new(Sequence::new(draft), tokens, shared);
    let mut keep_going = |ids: &[u32]| ids.len() < stop_after;
    continue_sequence(
        &mut Sequence::new(target),
        Some(&mut drafter),
        prompt,
        config,
        &|_, _| 0.5,
        &mut keep_going,
    )
}

#[test]
fn without_chance_the_tokens_are_those_of_the_target_alone() {
    for name in ["llama_tied", "qwen2", "qwen3", "mistral"] {
        let target = golden(name);
        let mut lesser = target.clone();
        lesser.blocks.truncate(1);
        lesser.config.num_hidden_layers = 1;
        for penalty in [1.0, 1.3] {
            let mut config = greedy(40);
            config.sampling.repetition_penalty = penalty;
            let prompt = vec![3, 14, 15, 9, 2];
            let plain = |config: &GenerationConfig| {
                let prompts = [prompt.clone()];
                generate(&target, &prompts, config, &|_, _| 0.5, &mut |_, _| true).remove(0)
            };
            let expected = plain(&config);
            for tokens in [1, 2, 4, 9] {
                let found = speculative(&target, &lesser, tokens, &prompt, &config, 99);
                assert_eq!(found.ids, expected, "{name}, {tokens} drafted");
                let own = speculative(&target, &target, tokens, &prompt, &config, 99);
                assert_eq!(own.ids, expected);
                assert_eq!(own.acceptance.accepted, own.acceptance.drafted);
                // A last token that stands alone needs no draft.
                let rounds = (39 - 1_u64).div_ceil(tokens as u64 + 1);
                assert_eq!(own.acceptance.rounds, rounds, "{tokens} drafted");
            }
            // The caller and an end-of-sequence token end it in the middle of a draft.
            let stopped = speculative(&target, &target, 4, &prompt, &config, 7);
            assert_eq!(stopped.ids, expected[..7]);
            config.eos_token_ids = vec![expected[8]];
            let ended = speculative(&target, &target, 4, &prompt, &config, 99);
            assert_eq!(ended.ids, plain(&config), "{name}");
            assert_eq!(ended.ids.last(), Some(&expected[8]));
        }
    }
}

#[test]
fn a_target_with_more_rows_than_the_draft_says_what_it_would() {
    let (target, draft) = (tiny(12, 3), tiny(9, 4));
    let config = greedy(20);
    for first in 0..12 {
        let prompt = vec![first, 1];
        let prompts = [prompt.clone()];
        let plain = generate(&target, &prompts, &config, &|_, _| 0.5, &mut |_, _| true);
        let found = speculative(&target, &draft, 3, &prompt, &config, 99);
        assert_eq!(found.ids, plain[0]);
    }
}

/// All texts of three new tokens with their exact probabilities.
fn texts_of_three(model: &Decoder, sampling: &SamplingConfig, prompt: &[u32]) -> Vec<f64> {
    let vocabulary = model.config.vocab_size;
    let mut sequence = Sequence::new(model);
    let mut next = |ids: &[u32]| -> Vec<f64> {
        sequence.read(ids, 1);
        let logits = sequence.logits().next().unwrap();
        let log_probs = next_log_probs(sampling, logits, ids);
        log_probs.iter().map(|x| f64::from(*x).exp()).collect()
    };
    let mut all = Vec::with_capacity(vocabulary.pow(3));
    for (a, first) in next(prompt).into_iter().enumerate() {
        let ids = [prompt, &[a as u32]].concat();
        for (b, second) in next(&ids).into_iter().enumerate() {
            let ids = [&ids[..], &[b as u32]].concat();
            all.extend(next(&ids).into_iter().map(|third| first * second * third));
        }
    }
    all
}

/// Standard normal deviate of Pearson's χ² by Wilson and Hilferty. Cells that expect fewer than five are joined.
fn deviate(counts: &[u64], probabilities: &[f64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let (mut chi_squared, mut cells) = (0.0, 0.0);
    let mut add = |count: f64, expected: f64| {
        if expected > 0.0 || count > 0.0 {
            chi_squared += (count - expected).powi(2) / expected;
            cells += 1.0;
        }
    };
    let mut rare = (0.0, 0.0);
    for (count, probability) in counts.iter().zip(probabilities) {
        let expected = probability * total as f64;
        match expected < 5.0 {
            true => rare = (rare.0 + *count as f64, rare.1 + expected),
            false => add(*count as f64, expected),
        }
    }
    add(rare.0, rare.1);
    let freedom: f64 = cells - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    ((chi_squared / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// z < 3.09 is p > 0.001.
#[test]
fn with_chance_every_text_has_the_probability_that_the_target_gives_it() {
    const TEXTS: u64 = 20_000;
    let (target, draft) = (tiny(6, 1), tiny(6, 2));
    let prompt = [1, 4, 2];
    let plain = SamplingConfig {
        temperature: 0.15,
        ..SamplingConfig::default()
    };
    let settings = [
        plain.clone(),
        SamplingConfig {
            top_k: 4,
            repetition_penalty: 1.5,
            ..plain.clone()
        },
        SamplingConfig {
            top_p: 0.9,
            min_p: 0.05,
            ..plain
        },
    ];
    for sampling in settings {
        let exact = texts_of_three(&target, &sampling, &prompt);
        let drafted = texts_of_three(&draft, &sampling, &prompt);
        let config = GenerationConfig {
            sampling: sampling.clone(),
            ..greedy(3)
        };
        let mut target = Sequence::new(&target);
        for with_draft in [true, false] {
            let mut drafter = Drafter::new(Sequence::new(&draft), 2, 6);
            let mut counts = vec![0; 216];
            let mut acceptance = Acceptance::default();
            for seed in 0..TEXTS {
                let random = Stream::new(seed, "speculative");
                let written = continue_sequence(
                    &mut target,
                    with_draft.then_some(&mut drafter),
                    &prompt,
                    &config,
                    &|index, draw| random.nth(draw as u64).uniform(index as u64),
                    &mut |_| true,
                );
                let [a, b, c] = written.ids[..] else {
                    panic!("three tokens");
                };
                counts[((a * 6 + b) * 6 + c) as usize] += 1;
                acceptance += written.acceptance;
            }
            let (z, other) = (deviate(&counts, &exact), deviate(&counts, &drafted));
            let rate = acceptance.rate();
            println!(
                "draft {with_draft}: z {z:.2}, against the draft's {other:.1}, rate {rate:.2}"
            );
            assert!(z < 3.09, "z = {z}");
            assert!(other > 10.0, "z = {other}");
            assert!(!with_draft || (0.1..0.95).contains(&rate), "{rate}");
        }
    }
}

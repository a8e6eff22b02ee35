use std::path::Path;

use model::batch::TokenBatch;
use model::build::Placement;
use model::load::load_decoder;
use model::weights::checkpoint::Checkpoint;
use teacher::LocalTeacher;

use super::windows::all_windows;
use super::*;

fn decoder() -> Decoder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints/llama_gqa");
    load_decoder(&Checkpoint::open(&path).unwrap(), &Placement::cpu()).unwrap()
}

/// Token i stands for i % 3 + 1 bytes.
fn tokenizer(rows: usize) -> Tokenizer {
    let vocab: serde_json::Map<String, serde_json::Value> = (0..rows)
        .map(|id| {
            let character = char::from_u32(0x4E00 + id as u32).unwrap();
            let word = match id % 3 {
                0 => char::from_u32(33 + id as u32 / 3).unwrap().to_string(),
                1 => char::from_u32(0x100 + id as u32).unwrap().to_string(),
                _ => character.to_string(),
            };
            (word, id.into())
        })
        .collect();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "!" }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::from_file(&path).unwrap()
}

fn subject(tokens: usize) -> Subject<'static> {
    let teacher = LocalTeacher::new(decoder(), tokenizer(tokens)).unwrap();
    Subject::Local(Box::new(teacher))
}

fn config(window: usize, stride: usize) -> PerplexityConfig {
    PerplexityConfig {
        window: Some(window),
        stride: Some(stride),
        limit: None,
    }
}

fn ids(count: usize, rows: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i * i + 3 * i) % rows as u32)
        .collect()
}

#[test]
fn every_token_is_scored_once_and_with_the_whole_window_before_it() {
    for (length, window, stride) in [(2, 4, 2), (5, 4, 4), (20, 4, 1), (21, 5, 3), (9, 8, 8)] {
        let documents = [vec![0; length], Vec::new(), vec![0; 1], vec![0; length + 1]];
        let windows = all_windows(&documents, window, stride, None);
        for (number, document) in documents.iter().enumerate() {
            let mut next = 1;
            for w in windows.iter().filter(|w| w.document == number) {
                let first = w.inputs.end - w.scored + 1;
                assert_eq!(first, next);
                next = w.inputs.end + 1;
                assert_eq!(w.inputs.len(), window.min(w.inputs.end));
                assert!(w.scored <= if first == 1 { window } else { stride });
            }
            assert_eq!(next, document.len().max(1));
        }
    }
    let windows = all_windows(&[vec![0; 9], vec![0; 9]], 4, 2, Some(10));
    assert_eq!(windows.iter().map(|w| w.scored).sum::<usize>(), 10);
}

#[test]
fn windows_give_what_the_decoder_gives_for_each_alone() {
    let decoder = decoder();
    let rows = decoder.config.vocab_size;
    let subject = subject(rows.min(90));
    let documents = [ids(23, rows.min(90)), ids(7, rows.min(90)), vec![5]];
    let measured = |documents: &[Vec<u32>], config, progress: &mut dyn FnMut(u64, u64) -> bool| {
        perplexity(&subject, documents, &config, progress).unwrap()
    };
    let whole = measured(&documents, config(30, 15), &mut |_, _| true).unwrap();
    assert!(measured(&documents, config(6, 1), &mut |_, _| false).is_none());
    let expected: Vec<f64> = (documents.iter())
        .flat_map(|ids| sequence_log_probs(&decoder, ids))
        .collect();
    assert_eq!(whole.tokens, 22 + 6);
    assert!((whole.nll_sum + expected.iter().sum::<f64>()).abs() < 1e-4);
    assert!((whole.nll - whole.nll_sum / 28.0).abs() < 1e-12);
    assert!((whole.perplexity - whole.nll.exp()).abs() < 1e-9);
    let mean = expected.iter().sum::<f64>() / 28.0;
    let variance = expected.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 27.0;
    assert!((whole.standard_error - (variance / 28.0).sqrt()).abs() < 1e-5);
    let bytes: u64 = (documents.iter())
        .flat_map(|ids| ids.iter().skip(1).map(|id| u64::from(id % 3 + 1)))
        .sum();
    assert_eq!(whole.bytes, bytes);
    let bits = whole.nll_sum / 2.0_f64.ln() / bytes as f64;
    assert!((whole.bits_per_byte - bits).abs() < 1e-12);

    // Stride 1 gives each token exactly the window before it.
    let mut heard = Vec::new();
    let progress = &mut |done, total| {
        heard.push((done, total));
        true
    };
    let sliding = measured(&documents[..1], config(6, 1), progress).unwrap();
    let ids = &documents[0];
    let expected: f64 = (1..ids.len())
        .map(|at| {
            let scores = sequence_log_probs(&decoder, &ids[at.saturating_sub(6)..=at]);
            -scores.last().unwrap()
        })
        .sum();
    assert!((sliding.nll_sum - expected).abs() < 1e-4);
    assert_eq!(heard.last(), Some(&(22, 22)));
}

#[test]
fn bad_settings_and_data_are_told() {
    let decoder = decoder();
    let context = decoder.config.max_position_embeddings;
    let subject = subject(decoder.config.vocab_size);
    let says = |config: &PerplexityConfig, documents: &[Vec<u32>]| {
        let result = perplexity(&subject, documents, config, &mut |_, _| true);
        result.unwrap_err().to_string()
    };
    let good = [ids(9, 90)];
    assert!(says(&config(1, 1), &good).contains("window = 1"));
    assert!(says(&config(context + 1, 1), &good).contains("context"));
    assert!(says(&config(4, 5), &good).contains("stride = 5"));
    assert!(says(&config(4, 0), &good).contains("stride = 0"));
    assert!(says(&config(4, 2), &[vec![1]]).contains("nothing to score"));
    let beyond = vec![1, decoder.config.vocab_size as u32];
    assert!(says(&config(4, 2), &[beyond]).contains("document 1"));
    let unknown = serde_json::from_str::<PerplexityConfig>(r#"{"windows": 4}"#).unwrap_err();
    assert!(
        unknown.to_string().contains("expected one of `window`"),
        "{unknown}"
    );
}

/// Log-probabilities of `ids[1..]`, each given all before it.
fn sequence_log_probs(decoder: &Decoder, ids: &[u32]) -> Vec<f64> {
    if ids.len() < 2 {
        return Vec::new();
    }
    let hidden = decoder.hidden(&TokenBatch::single(&ids[..ids.len() - 1]));
    label_log_probs(decoder, &hidden, &ids[1..])
}

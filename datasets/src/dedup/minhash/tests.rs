use std::collections::HashSet;

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::words::{hash_word, normalise, words};

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    words: Vec<Vec<String>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    n: usize,
    sizes: Vec<usize>,
    jaccard: Vec<Vec<f64>>,
}

fn defaults() -> MinHash {
    serde_json::from_str("{}").unwrap()
}

fn jaccard(a: &HashSet<u64>, b: &HashSet<u64>) -> f64 {
    a.intersection(b).count() as f64 / a.union(b).count().max(1) as f64
}

#[test]
fn ngrams_and_jaccard_indices_are_those_of_python() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/golden/ngrams.json")).unwrap();
    let functions = HashFunctions::new(112);
    for (text, expected) in golden.texts.iter().zip(&golden.words) {
        let text = normalise(text);
        assert_eq!(words(&text).collect::<Vec<_>>(), *expected);
    }
    let mut errors = Vec::new();
    for case in golden.cases {
        let sets: Vec<HashSet<u64>> = (golden.texts.iter())
            .map(|text| ngram_hashes(&word_hashes(text), case.n).collect())
            .collect();
        let sizes: Vec<usize> = sets.iter().map(HashSet::len).collect();
        assert_eq!(sizes, case.sizes, "n = {}", case.n);
        for (i, a) in sets.iter().enumerate() {
            for (j, b) in sets.iter().enumerate() {
                let exact = case.jaccard[i][j];
                assert_eq!(jaccard(a, b), exact, "n = {}, texts {i} and {j}", case.n);
                if a.is_empty() || b.is_empty() {
                    continue;
                }
                let signature = |set: &HashSet<u64>| functions.signature(set.iter().copied());
                let estimate = similarity(&signature(a), &signature(b));
                let deviation = (exact * (1.0 - exact) / 112.0).sqrt();
                assert!(
                    (estimate - exact).abs() <= 4.0 * deviation,
                    "{estimate}, {exact}"
                );
                errors.push(estimate - exact);
            }
        }
    }
    assert!(errors.len() > 300);
}

/// Two sets of words with a Jaccard index of `shared` / 200.
fn pair(shared: usize, number: usize) -> (String, String) {
    let alone = (200 - shared) / 2;
    let text = |who: &str| {
        let own = (0..alone).map(|i| format!("{who}{number}x{i}"));
        let both = (0..shared).map(|i| format!("s{number}x{i}"));
        own.chain(both).collect::<Vec<_>>().join(" ")
    };
    (text("a"), text("b"))
}

#[test]
fn estimates_and_candidates_follow_their_distributions() {
    const PAIRS: usize = 1000;
    let functions = HashFunctions::new(112);
    for shared in [100, 140, 180] {
        let exact = shared as f64 / 200.0;
        let (mut sum, mut squares, mut candidates) = (0.0, 0.0, 0);
        for number in 0..PAIRS {
            let (a, b) = pair(shared, number);
            let signature = |text: &str| functions.signature(ngram_hashes(&word_hashes(text), 1));
            let (a, b) = (signature(&a), signature(&b));
            let error = similarity(&a, &b) - exact;
            sum += error;
            squares += error * error;
            let mut bands = a.chunks(8).zip(b.chunks(8));
            candidates += usize::from(bands.any(|(a, b)| band_hash(a) == band_hash(b)));
        }
        let mean = sum / PAIRS as f64;
        let deviation = (squares / PAIRS as f64).sqrt();
        let predicted = (exact * (1.0 - exact) / 112.0).sqrt();
        let found = candidates as f64 / PAIRS as f64;
        let curve = 1.0 - (1.0 - exact.powi(8)).powi(14);
        println!(
            "Jaccard {exact}: mean error {mean:.5}, deviation {deviation:.4} (predicted {predicted:.4}), \
             candidates {found:.3} (predicted {curve:.3})"
        );
        assert!(mean.abs() < 4.0 * predicted / (PAIRS as f64).sqrt());
        assert!((deviation / predicted - 1.0).abs() < 0.12);
        let noise = (curve * (1.0 - curve) / PAIRS as f64).sqrt();
        assert!((found - curve).abs() < 4.0 * noise + 1e-3);
    }
}

#[test]
fn the_first_of_a_cluster_stays_and_the_rest_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    let (a, b) = pair(190, 0);
    let mut texts: Vec<String> = (1..50).map(|number| pair(0, number).0).collect();
    texts[7] = a;
    texts[30] = b;
    texts[40] = texts[3].clone();
    let lines: Vec<String> = texts
        .iter()
        .map(|text| json!({"id": 1.50, "text": text}).to_string())
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let settings = MinHash {
        ngram: 1,
        ..defaults()
    };
    let data = DataConfig::new(path);
    let run = |threads: usize| {
        let out = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let counts = pool
            .install(|| dedup(&data, &settings, None, out.path(), "out.jsonl"))
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
        (counts, read("out.jsonl"), read("dropped.jsonl"))
    };
    let (counts, kept, dropped) = run(1);
    assert_eq!((counts.records, counts.kept), (49, 47));
    let expected: Vec<&String> = lines
        .iter()
        .enumerate()
        .filter(|(i, _)| ![30, 40].contains(i))
        .map(|(_, line)| line)
        .collect();
    assert_eq!(kept.lines().collect::<Vec<_>>(), expected);
    assert!(
        dropped.contains("of the cluster of record 8, estimated Jaccard index 0.9"),
        "{dropped}"
    );
    assert!(
        dropped.contains("of the cluster of record 4, estimated Jaccard index 1.00"),
        "{dropped}"
    );
    assert_eq!(run(2), (counts, kept, dropped));
}

/// However many share a band, as files with one licence do.
#[test]
fn a_large_bucket_is_not_quadratic() {
    const COUNT: u32 = 30_000;
    let mut file = tempfile::tempfile().unwrap();
    // Each is there once more, with one number of the second half changed.
    for item in 0..2 * COUNT {
        let mut signature: Vec<u32> = (0..112)
            .map(|at| crate::words::mix(u64::from(item % COUNT) << 8 | at) as u32)
            .collect();
        signature[..8].fill(7);
        signature[60] = item;
        file.write_all(bytemuck::cast_slice(&signature)).unwrap();
    }
    let mut signatures = Signatures {
        file,
        directory: PathBuf::new(),
        length: 112,
        count: 2 * COUNT,
    };
    let start = std::time::Instant::now();
    let mut clusters = signatures.clusters(&defaults()).unwrap();
    // All pairs would take a minute.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert!((0..COUNT).all(|item| clusters.root(item) == item));
    assert!((COUNT..2 * COUNT).all(|item| clusters.root(item) == item - COUNT));
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let settings = MinHash {
        bands: 13,
        threshold: 1.5,
        ..defaults()
    };
    let keys: Vec<String> = settings.check().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["bands", "threshold"]);
    assert!(defaults().check().is_empty());
}

#[test]
fn a_words_hash_is_stable() {
    // Signatures of the same data are the same in every process and release.
    assert_eq!(hash_word(""), 0xEFD0_1F60_BA99_2926);
}

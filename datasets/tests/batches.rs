//! From samples through the cache to batches: every target is one position before its token.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use datasets::batch::Batch;
use datasets::cache::TokenCache;
use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
use datasets::mask::{SampleEncoder, TokenizedSample};
use datasets::mixture::Corpus;
use datasets::packing::Packing;
use datasets::pieces::PieceList;
use datasets::random::Random;
use datasets::sample::{Message, Sample};
use datasets::tokenizer::Tokenizer;

const PAD: u32 = 2;

fn tiny() -> Tokenizer {
    Tokenizer::from_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny"))
        .unwrap()
}

/// Samples of all kinds; each begins with its own number, so that its pieces can be told apart.
fn samples(seed: u64, n: usize) -> Vec<Sample> {
    let mut random = Random::new(seed, "test", 0, "samples");
    let words = |random: &mut Random, n: u64| {
        let count = 1 + random.below(n);
        (0..count)
            .map(|_| ["the ", "cap", "dog ", "7", "\n"][random.below(5) as usize])
            .collect::<String>()
    };
    (0..n)
        .map(|i| match random.below(3) {
            0 => Sample::Text(format!("{i} {}", words(&mut random, 60))),
            1 => Sample::Completion {
                prompt: format!("{i} {}", words(&mut random, 20)),
                completion: words(&mut random, 20),
            },
            _ => Sample::Conversation(vec![
                Message::new("user", format!("{i} {}", words(&mut random, 10))),
                Message::new("assistant", words(&mut random, 10)),
                Message::new("user", words(&mut random, 10)),
                Message::new("assistant", words(&mut random, 10)),
            ]),
        })
        .collect()
}

fn cache(directory: &Path, samples: Vec<Sample>) -> TokenCache {
    let tokenizer = tiny();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    TokenCache::build_or_open(directory, "test", &encoder, |take| take(samples)).unwrap()
}

fn config(length: usize, rows: usize, packing: Packing) -> LoaderConfig {
    LoaderConfig {
        sequence_length: length,
        batch: BatchSize::Rows(rows),
        seed: 11,
        stage: "sft".into(),
        packing,
        pad: PAD,
    }
}

/// One segment of a row: ids, and the target of each position where it counts.
fn segments(batch: &Batch) -> Vec<(Vec<u32>, Vec<Option<u32>>)> {
    let mut found = Vec::new();
    for row in 0..batch.rows {
        let mut t = row * batch.length;
        let end = t + batch.length;
        let mut number = 0;
        while t < end && batch.segments[t] != 0 {
            number += 1;
            let (mut ids, mut targets) = (Vec::new(), Vec::new());
            while t < end && batch.segments[t] == number {
                assert_eq!(
                    batch.positions[t] as usize,
                    ids.len(),
                    "positions restart in every segment"
                );
                ids.push(batch.ids[t]);
                targets.push(batch.supervised[t].then_some(batch.targets[t]));
                t += 1;
            }
            found.push((ids, targets));
        }
        while t < end {
            assert_eq!(
                (batch.ids[t], batch.segments[t], batch.supervised[t]),
                (PAD, 0, false)
            );
            t += 1;
        }
    }
    found
}

/// The targets that `sample[start..start + length]` has to have in a batch.
fn expected_targets(sample: &TokenizedSample, start: usize, length: usize) -> Vec<Option<u32>> {
    (start..start + length)
        .map(|t| (t + 1 < start + length && sample.supervised[t + 1]).then(|| sample.ids[t + 1]))
        .collect()
}

/// The batches of one epoch.
fn batches(loader: &BatchLoader, epoch: u64) -> Vec<Batch> {
    (0..)
        .map(|number| (loader.epoch_of(number).0, number))
        .skip_while(|(e, _)| *e < epoch)
        .take_while(|(e, _)| *e == epoch)
        .map(|(_, number)| loader.batch(number))
        .collect()
}

#[test]
fn each_target_is_in_an_epoch_once_one_position_before_its_token() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    for (case, packing) in [Packing::Pack, Packing::Stream, Packing::None]
        .into_iter()
        .enumerate()
    {
        let directory = tempfile::tempdir().unwrap();
        let samples = samples(case as u64, 300);
        let encoded: Vec<TokenizedSample> =
            samples.iter().map(|s| encoder.encode(s).unwrap()).collect();
        let length = 64;
        let loader =
            BatchLoader::new(cache(directory.path(), samples), config(length, 4, packing)).unwrap();
        for epoch in 0..3 {
            // Pieces of the epoch, by their tokens; equal pieces are counted.
            let mut pieces: HashMap<(Vec<u32>, Vec<Option<u32>>), i32> = HashMap::new();
            // The same for (a token, the target after it).
            let mut pairs: HashMap<(u32, u32), i32> = HashMap::new();
            let mut tokens = 0;
            for batch in batches(&loader, epoch) {
                assert!(batch.supervised_count() > 0);
                for piece in segments(&batch) {
                    tokens += piece.0.len() as u64;
                    for (id, target) in piece.0.iter().zip(&piece.1) {
                        if let Some(target) = target {
                            *pairs.entry((*id, *target)).or_default() += 1;
                        }
                    }
                    *pieces.entry(piece).or_default() += 1;
                }
            }
            let report = loader.report();
            assert_eq!(
                report.tokens,
                encoded.iter().map(|s| s.ids.len() as u64).sum::<u64>()
            );
            if epoch == 0 || packing != Packing::Stream {
                assert_eq!(
                    tokens + report.truncated_tokens + report.dropped_tokens,
                    report.tokens + report.repeated_tokens
                );
            }
            for sample in &encoded {
                let whole = sample.ids.len();
                let is_cut = !sample.splittable && packing != Packing::Stream;
                let end = if is_cut { whole.min(length) } else { whole };
                for t in (1..end).filter(|t| sample.supervised[*t]) {
                    let pair = (sample.ids[t - 1], sample.ids[t]);
                    *pairs.get_mut(&pair).expect("a target is missing") -= 1;
                }
            }
            assert!(
                pairs.values().all(|count| *count == 0),
                "a target is missing or twice"
            );
            if packing == Packing::Stream {
                continue;
            }
            for sample in &encoded {
                let whole = sample.ids.len();
                let parts: Vec<(usize, usize)> = if sample.splittable {
                    (0..whole - 1)
                        .step_by(length - 1)
                        .map(|s| (s, length.min(whole - s)))
                        .collect()
                } else if sample.supervised.iter().take(length).any(|s| *s) {
                    vec![(0, whole.min(length))]
                } else {
                    vec![]
                };
                for (start, n) in parts {
                    let key = (
                        sample.ids[start..start + n].to_vec(),
                        expected_targets(sample, start, n),
                    );
                    let count = pieces
                        .get_mut(&key)
                        .expect("a piece is missing, or its targets are shifted");
                    *count -= 1;
                }
            }
            assert!(
                pieces.values().all(|count| *count == 0),
                "a piece that no sample has"
            );
        }
    }
}

/// Whatever is left of a text after its full rows, even one token.
#[test]
fn every_batch_of_text_has_a_target() {
    let directory = tempfile::tempdir().unwrap();
    for n in 40..60 {
        let text = || vec![Sample::Text("7".repeat(n))];
        for packing in [Packing::Pack, Packing::Stream, Packing::None] {
            let cache = cache(&directory.path().join(n.to_string()), text());
            let supervised = cache.supervised() as usize;
            assert_eq!(supervised as u64 + 1, cache.tokens());
            let loader = BatchLoader::new(cache, config(8, 1, packing)).unwrap();
            let counts: Vec<usize> = batches(&loader, 1)
                .iter()
                .map(Batch::supervised_count)
                .collect();
            assert!(counts.iter().all(|count| *count > 0), "{n}: {counts:?}");
            assert_eq!(counts.iter().sum::<usize>(), supervised);
        }
    }
}

#[test]
fn every_batch_of_a_stream_with_long_prompts_has_a_target() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(3, "test", 0, "prompts");
    let samples: Vec<Sample> = (0..40)
        .map(|_| Sample::Completion {
            prompt: "7".repeat(random.below(100) as usize),
            completion: "7".repeat(1 + random.below(6) as usize),
        })
        .collect();
    let tokenizer = tiny();
    let encoder = SampleEncoder::with_template(&tokenizer, None);
    let open = || {
        TokenCache::build_or_open(directory.path(), "prompts", &encoder, |take| {
            take(samples.clone())
        })
        .unwrap()
    };
    let supervised = open().supervised() as usize;
    let loader = BatchLoader::new(open(), config(8, 1, Packing::Stream)).unwrap();
    for epoch in 0..4 {
        let batches = batches(&loader, epoch);
        assert!(batches.iter().all(|batch| batch.supervised_count() > 0));
        let found: usize = batches.iter().map(Batch::supervised_count).sum();
        assert_eq!(found, supervised);
    }
    let report = loader.report();
    assert!(report.dropped_rows > 0, "{report:?}");
    assert_eq!(report.dropped_samples, 0);
    // Another loader that begins in a later epoch gives the same.
    let fresh = BatchLoader::new(open(), config(8, 1, Packing::Stream)).unwrap();
    let late = 3 * loader.batches_per_epoch();
    assert_eq!(fresh.batch(late), loader.batch(late));
}

/// The regression test of an off-by-one at completion borders: the last prompt position predicts the first
/// completion token, and the last completion position predicts the end.
#[test]
fn the_border_of_a_completion_is_exact() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::with_template(&tokenizer, None);
    let directory = tempfile::tempdir().unwrap();
    let sample = Sample::Completion {
        prompt: "the dog".into(),
        completion: "7777".into(),
    };
    let cache = TokenCache::build_or_open(directory.path(), "border", &encoder, |take| {
        take(vec![sample])
    })
    .unwrap();
    let loader = BatchLoader::new(cache, config(32, 1, Packing::Pack)).unwrap();
    let batch = loader.batch(0);
    let prompt = tokenizer.encode("the dog", true).unwrap();
    let seven = tokenizer.encode("7", false).unwrap()[0];
    let border = prompt.len();
    assert_eq!(batch.ids[..border], prompt);
    let counted: Vec<(usize, u32)> = (0..32)
        .filter(|t| batch.supervised[*t])
        .map(|t| (t, batch.targets[t]))
        .collect();
    let expected: Vec<(usize, u32)> = (0..5)
        .map(|i| (border - 1 + i, if i < 4 { seven } else { 2 }))
        .collect();
    assert_eq!(counted, expected);
    assert_eq!(batch.supervised_count(), 5);
    assert_eq!(batch.token_count(), border + 5);
}

#[test]
fn a_batch_depends_on_its_number_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = cache(&directory.path().join("a"), samples(1, 200));
    let second = cache(&directory.path().join("b"), samples(2, 37));
    let corpus = || {
        let open = |name: &str| Arc::new(cache(&directory.path().join(name), Vec::new()));
        Corpus::new(vec![(open("a"), 0.3), (open("b"), 0.7)]).unwrap()
    };
    assert_eq!((first.len(), second.len()), (200, 37));
    for packing in [Packing::Pack, Packing::Stream] {
        let loader = Arc::new(BatchLoader::new(corpus(), config(48, 3, packing)).unwrap());
        let n = 3 * loader.batches_per_epoch();
        let in_order: Vec<Batch> = (0..n).map(|i| loader.batch(i)).collect();
        let fresh = BatchLoader::new(corpus(), config(48, 3, packing)).unwrap();
        for number in (0..n).rev().step_by(3) {
            assert_eq!(fresh.batch(number), in_order[number as usize]);
        }
        let from = n / 2;
        let prefetched: Vec<Batch> = loader.prefetch(from, 2).take(5).collect();
        assert_eq!(prefetched, in_order[from as usize..from as usize + 5]);
        assert!(in_order.iter().all(|b| b.token_count() > 0));
        let other = BatchLoader::new(
            corpus(),
            LoaderConfig {
                seed: 12,
                ..config(48, 3, packing)
            },
        )
        .unwrap();
        assert_ne!(other.batch(0), in_order[0]);
        let (epoch, start) = loader.epoch_of(n - 1);
        assert!(epoch >= 2 && start < n);
    }
}

#[test]
fn rows_can_be_taken_apart() {
    let directory = tempfile::tempdir().unwrap();
    let loader = BatchLoader::new(
        cache(directory.path(), samples(4, 60)),
        config(32, 8, Packing::Pack),
    )
    .unwrap();
    let batch = loader.batch(0);
    let parts: Vec<Batch> = (0..8).step_by(3).map(|r| batch.rows_in(r..r + 3)).collect();
    assert_eq!(parts.iter().map(|p| p.rows).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(
        parts.iter().map(Batch::supervised_count).sum::<usize>(),
        batch.supervised_count()
    );
    assert_eq!(
        parts
            .into_iter()
            .flat_map(|p| p.targets)
            .collect::<Vec<_>>(),
        batch.targets
    );
}

#[test]
fn a_cache_is_reused_and_a_damaged_one_is_written_anew() {
    let tokenizer = tiny();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let data = samples(5, 50);
    let encoded: Vec<TokenizedSample> = data.iter().map(|s| encoder.encode(s).unwrap()).collect();
    let build = |reads: &mut usize| {
        TokenCache::build_or_open(directory.path(), "key", &encoder, |take| {
            *reads += 1;
            take(data.clone())
        })
        .unwrap()
    };
    let mut reads = 0;
    let check = |cache: &TokenCache| {
        assert_eq!(cache.len(), encoded.len());
        for (i, sample) in encoded.iter().enumerate() {
            let cached = cache.sample(i);
            assert_eq!(cached.ids, sample.ids);
            assert!(
                cached
                    .supervised
                    .iter()
                    .zip(&sample.supervised)
                    .all(|(c, s)| (*c != 0) == *s)
            );
            assert_eq!(cached.splittable, sample.splittable);
            assert_eq!(cache.lengths()[i] as usize, sample.ids.len());
        }
    };
    check(&build(&mut reads));
    check(&build(&mut reads));
    assert_eq!(reads, 1);
    let path = fs::read_dir(directory.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = fs::read(&path).unwrap();
    // Too short at every kind of place, a byte too long, and lying counts.
    let mut damaged: Vec<Vec<u8>> = [0, 7, 60, 127, 128, 1000, good.len() - 1]
        .iter()
        .map(|n| good[..*n].to_vec())
        .collect();
    damaged.push([good.as_slice(), &[0]].concat());
    for at in [0, 8, 20, 50, 55, 58, 63] {
        let mut bytes = good.clone();
        bytes[at] ^= 0xFF;
        damaged.push(bytes);
    }
    let end = good.len();
    let mut offsets = good.clone();
    offsets[end - 50 * 5 - 8 * 20..end - 50 * 5 - 8 * 10].fill(0xEE);
    damaged.push(offsets);
    for (i, bytes) in damaged.into_iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        check(&build(&mut reads));
        assert_eq!(reads, i + 2, "damage {i} went unnoticed");
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "files are left behind"
    );
}

#[test]
fn a_cache_of_data_follows_the_data_and_the_tokenizer() {
    let tokenizer = tiny();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.jsonl");
    let caches = directory.path().join("caches");
    let config = DataConfig::new(file.clone());
    let build =
        |encoder: &SampleEncoder| TokenCache::of_data(&caches, &config, encoder).map(|c| c.len());
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    fs::write(&file, "{\"text\": \"a\"}\n").unwrap();
    assert_eq!(build(&encoder).unwrap(), 1);
    fs::write(&file, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    assert_eq!(build(&encoder).unwrap(), 2);
    assert_eq!(
        build(&SampleEncoder::with_template(&tokenizer, None)).unwrap(),
        2
    );
    assert_eq!(fs::read_dir(&caches).unwrap().count(), 3);
}

#[test]
fn nothing_to_learn_is_an_error() {
    let tokenizer = tiny();
    let directory = tempfile::tempdir().unwrap();
    let encoder = SampleEncoder::new(&tokenizer).unwrap();
    let only_read = Sample::Conversation(vec![Message::new("user", "hi")]);
    let error = TokenCache::build_or_open(directory.path(), "k", &encoder, |take| {
        take(vec![only_read.clone(), only_read])
    })
    .unwrap_err();
    assert!(
        matches!(error, DataError::NothingSupervised { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("hint"), "{error}");

    let long_prompt = Sample::Completion {
        prompt: "the dog ".repeat(50),
        completion: "x".into(),
    };
    let cache = TokenCache::build_or_open(directory.path(), "l", &encoder, |take| {
        take(vec![long_prompt])
    })
    .unwrap();
    let error = BatchLoader::new(cache, config(16, 2, Packing::Pack)).unwrap_err();
    assert!(
        error.to_string().contains("sequence_length = 16"),
        "{error}"
    );
}

#[test]
fn sizes_that_make_no_sense_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let error = |config: LoaderConfig| {
        BatchLoader::new(cache(directory.path(), samples(6, 5)), config)
            .unwrap_err()
            .to_string()
    };
    assert!(error(config(1, 1, Packing::Pack)).contains("sequence_length = 1"));
    assert!(error(config(8, 0, Packing::Pack)).contains("rows"));
    let tokens = LoaderConfig {
        batch: BatchSize::Tokens(100),
        ..config(64, 1, Packing::Pack)
    };
    assert!(error(tokens).contains("multiple of sequence_length = 64"));
    let part = || Arc::new(cache(directory.path(), samples(6, 5)));
    assert!(Corpus::new(vec![(part(), 0.5), (part(), -1.0)]).is_err());
    assert!(Corpus::new(vec![(part(), f64::NAN)]).is_err());
    assert!(Corpus::new(vec![]).is_err());
}

#[test]
fn every_piece_of_every_batch_is_in_the_list_of_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let corpus: Corpus = cache(directory.path(), samples(11, 200)).into();
    let list = PieceList::new(&corpus, 24);
    let all: usize = (0..list.len())
        .map(|piece| list.targets(&corpus, piece))
        .sum();
    for packing in [Packing::Pack, Packing::None] {
        let corpus: Corpus = cache(directory.path(), samples(11, 200)).into();
        let loader = BatchLoader::new(corpus, config(24, 6, packing)).unwrap();
        let mut seen = vec![0; list.len()];
        let mut targets = 0;
        for number in 0..loader.batches_per_epoch() {
            let batch = loader.batch(number);
            for rows in [0..2, 2..6] {
                let part = batch.rows_in(rows);
                for placed in &part.pieces {
                    let piece = list.number(&placed.piece).expect("a piece of the list");
                    seen[piece] += 1;
                    let sample = loader.corpus().sample(placed.piece.sample as usize);
                    let start = placed.piece.start as usize;
                    let end = start + placed.piece.length as usize;
                    assert_eq!(part.ids[placed.cells()], sample.ids[start..end]);
                    let supervised = &part.supervised[placed.cells()];
                    let count = supervised.iter().filter(|flag| **flag).count();
                    assert_eq!(count, list.targets(loader.corpus(), piece));
                    targets += count;
                }
            }
        }
        assert!(seen.iter().all(|times| *times == 1));
        assert_eq!(targets, all);
    }
    let batches = list.batches(&corpus, 3..40, 4, PAD);
    let found: usize = batches.map(|batch| batch.supervised_count()).sum();
    let expected: usize = (3..40).map(|piece| list.targets(&corpus, piece)).sum();
    assert_eq!(found, expected);
    let other = datasets::packing::Piece {
        sample: 0,
        start: 0,
        length: 1,
    };
    assert_eq!(list.number(&other), None);
}

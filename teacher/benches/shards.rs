//! Time of soft targets on one core, a position at a time: from logits to bytes, and back.
//!
//!     cargo bench -p teacher --bench shards

use std::time::Instant;

use datasets::random::Random;
use teacher::shards::Encoding;
use teacher::shards::distribution::Distribution;
use teacher::shards::encoding::{Sampled, TopK};
use teacher::shards::record::{RecordReader, write_sampled, write_top_k};
use teacher::sparse_targets::SparseTargets;

const VOCABULARY: usize = 49152;
const ROWS: usize = 256;
const REPEATS: usize = 5;
/// As the encodings choose it for this vocabulary.
const ORDER: [u32; 3] = [6, 5, 8];

fn main() {
    let mut random = Random::new(1, "bench", 0, "logits");
    // About as peaked as a model's: a sum of uniforms, cubed.
    let logits: Vec<f32> = (0..ROWS * VOCABULARY)
        .map(|_| {
            let x: f64 = (0..4).map(|_| random.f64()).sum::<f64>() - 2.0;
            (x * x * x * 4.0) as f32
        })
        .collect();
    let rows = || logits.chunks(VOCABULARY);
    let softmax = best(|| rows().filter_map(|row| Distribution::new(row, 1.0)).count());
    println!("softmax and entropy    {:8.2} µs a position", softmax * 1e6);
    let encodings = [
        Encoding::TopK(TopK { k: 32, bits: 12 }),
        Encoding::TopK(TopK { k: 64, bits: 12 }),
        Encoding::Sampled(Sampled { samples: 50 }),
    ];
    for (encoding, order) in encodings.into_iter().zip(ORDER) {
        let mut bytes = Vec::new();
        let write = best(|| {
            bytes.clear();
            for (i, row) in rows().enumerate() {
                let Some(distribution) = Distribution::new(row, 1.0) else {
                    continue;
                };
                match encoding {
                    Encoding::TopK(top) => {
                        let (ids, logs, tail) = distribution.top_k(top.k as usize);
                        write_top_k(&top, VOCABULARY, &ids, &logs, tail, &mut bytes);
                    }
                    Encoding::Sampled(sampled) => {
                        let mut random = Random::new(1, "bench", i as u64, "draws");
                        let samples = sampled.samples as usize;
                        let (ids, counts) = distribution.draw(samples, &mut random);
                        write_sampled(order, &ids, &counts, &mut bytes);
                    }
                }
            }
            bytes.len()
        });
        let reader = RecordReader::new(encoding, VOCABULARY);
        let read = best(|| {
            let mut targets = SparseTargets::new(VOCABULARY);
            let mut rest = &bytes[..];
            while let Some(read) = reader.read(rest, 0.0, &mut targets) {
                rest = &rest[read..];
            }
            assert_eq!(targets.len(), ROWS);
            targets.ids.len()
        });
        println!(
            "{encoding:?}: {:.2} µs to write with its softmax, {:.1} bytes, {:.0} thousand positions a second read",
            write * 1e6,
            bytes.len() as f64 / ROWS as f64,
            1e-3 / read
        );
    }
}

/// Seconds a position, the best of some runs.
fn best(mut run: impl FnMut() -> usize) -> f64 {
    let time = |_| {
        let start = Instant::now();
        std::hint::black_box(run());
        start.elapsed().as_secs_f64() / ROWS as f64
    };
    (0..REPEATS).map(time).fold(f64::INFINITY, f64::min)
}

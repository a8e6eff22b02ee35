//! Time of the row kernels: 256 positions over 49152 tokens, the best of several runs.
//!
//! `cargo bench -p trainer --bench loss_rows` · set RAYON_NUM_THREADS for the threads.

use std::time::Instant;

use teacher::sparse_targets::SparseTargets;
use trainer::loss::sparse::sparse_rows;
use trainer::loss::{Labels, LossConfig, LossEntries, Vocabulary, loss_rows};

const ROWS: usize = 256;
const COLUMNS: usize = 49_152;
const RUNS: usize = 15;

const MIXES: [(&str, &str); 7] = [
    ("cross_entropy", r#"[{"cross_entropy":{}}]"#),
    ("forward_kl", r#"[{"forward_kl":{"temperature":2}}]"#),
    (
        "forward_kl (T = 2) + cross_entropy",
        r#"[{"forward_kl":{"weight":0.9,"temperature":2}},{"cross_entropy":{"weight":0.1}}]"#,
    ),
    ("reverse_kl", r#"[{"reverse_kl":{}}]"#),
    ("jsd", r#"[{"jsd":{}}]"#),
    ("skew_kl", r#"[{"skew_kl":{}}]"#),
    ("tvd", r#"[{"tvd":{}}]"#),
];

/// Numbers that look like logits: roughly normal, from a multiplicative hash of the place.
fn logits(seed: u64) -> Vec<f32> {
    let draw = |i: u64| {
        let bits = (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sum: u64 = (0..4).map(|k| (bits >> (16 * k)) & 0xffff).sum();
        (sum as f32 / 65_536.0 - 2.0) * 5.0
    };
    (0..(ROWS * COLUMNS) as u64).map(draw).collect()
}

fn main() {
    let (student, teacher) = (logits(1), logits(77));
    let targets: Vec<u32> = (0..ROWS as u32).map(|i| i * 191 % COLUMNS as u32).collect();
    let labels = Labels {
        targets: &targets,
        supervised: &[true; ROWS],
    };
    let vocabulary = Vocabulary {
        student: COLUMNS,
        teacher: COLUMNS,
        valid: COLUMNS,
    };
    println!(
        "{ROWS} rows × {COLUMNS} columns, f32, {} threads",
        rayon::current_num_threads()
    );
    for (name, json) in MIXES {
        let configs: Vec<LossConfig> = serde_json::from_str(json).expect("the mixes are valid");
        let entries = LossEntries::new(&configs).expect("the mixes are valid");
        let mut values = vec![0.0; entries.count()];
        let mut work = student.clone();
        let best = (0..RUNS).map(|_| {
            work.copy_from_slice(&student);
            let start = Instant::now();
            loss_rows(
                &entries,
                vocabulary,
                &mut work,
                Some(&teacher),
                labels,
                1.0 / ROWS as f32,
                &mut values,
            )
            .expect("the shapes fit");
            start.elapsed().as_secs_f64() * 1e3
        });
        println!("{name:36} {:8.2} ms", best.fold(f64::INFINITY, f64::min));
    }
    let stored = stored_targets();
    for (name, json) in MIXES.into_iter().take(3) {
        let configs: Vec<LossConfig> = serde_json::from_str(json).expect("the mixes are valid");
        let entries = LossEntries::new(&configs).expect("the mixes are valid");
        let mut values = vec![0.0; entries.count()];
        let mut work = student.clone();
        let best = (0..RUNS).map(|_| {
            work.copy_from_slice(&student);
            let start = Instant::now();
            let scale = 1.0 / ROWS as f32;
            sparse_rows(
                &entries,
                COLUMNS,
                &mut work,
                (&stored, 0),
                labels,
                scale,
                &mut values,
            )
            .expect("the shapes fit");
            start.elapsed().as_secs_f64() * 1e3
        });
        let best = best.fold(f64::INFINITY, f64::min);
        println!("{:36} {best:8.2} ms", format!("{name}, stored"));
    }
}

/// Thirty-two tokens a position, and a tail.
fn stored_targets() -> SparseTargets {
    let mut targets = SparseTargets::new(COLUMNS);
    for row in 0..ROWS as u32 {
        targets.ids.extend((0..32).map(|i| i * 1500 + row));
        targets.probabilities.extend([0.025; 32]);
        let entropy = targets.bucketed_entropy(row as usize * 32, 0.2);
        targets.close(0.2, entropy);
    }
    targets
}

//! Stored targets: values and gradients against `tests/golden/make_sparse_losses.py`, and what must hold for any.

use burn::tensor::{DType, Device, Tensor, TensorData};
use datasets::random::Random;
use model::ops::real::Real;
use serde::Deserialize;
use teacher::shards::Encoding;
use teacher::shards::distribution::Distribution;
use teacher::shards::encoding::{Sampled, TopK};
use teacher::shards::record::{RecordReader, write_sampled, write_top_k};
use teacher::sparse_targets::SparseTargets;

use crate::loss::sparse::sparse_rows;
use crate::loss::sparse_formula::sparse_chunk;
use crate::loss::{Labels, LossConfig, LossEntries, LossRowsError, Vocabulary, loss_rows};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    columns: usize,
    vocabulary: usize,
    student: Vec<f64>,
    ids: Vec<Vec<u32>>,
    probabilities: Vec<Vec<f32>>,
    tails: Vec<f32>,
    entropies: Vec<f64>,
    labels: Vec<u32>,
    scale: f64,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    loss: LossConfig,
    value: f64,
    gradient: Vec<f64>,
}

impl Case {
    fn targets(&self) -> SparseTargets {
        let mut targets = SparseTargets::new(self.vocabulary);
        for (i, ids) in self.ids.iter().enumerate() {
            targets.ids.extend(ids);
            targets.probabilities.extend(&self.probabilities[i]);
            targets.close(self.tails[i], self.entropies[i]);
        }
        targets
    }
}

fn golden() -> Vec<Case> {
    let text = include_str!("../../../tests/golden/sparse_losses.json");
    serde_json::from_str::<Golden>(text).unwrap().cases
}

fn one(json: &str) -> LossEntries {
    LossEntries::new(&[serde_json::from_str(json).unwrap()]).unwrap()
}

/// Values and gradient of the kernel.
fn kernel<F: Real>(
    entries: &LossEntries,
    columns: usize,
    student: &[f64],
    targets: &SparseTargets,
    labels: &[u32],
    scale: f64,
) -> (Vec<f64>, Vec<f64>) {
    let mut gradient: Vec<F> = student.iter().map(|x| F::from_f64(*x)).collect();
    let mut values = vec![0.0; entries.count()];
    let labels = Labels {
        targets: labels,
        supervised: &vec![true; labels.len()],
    };
    sparse_rows(
        entries,
        columns,
        &mut gradient,
        (targets, 0),
        labels,
        F::from_f64(scale),
        &mut values,
    )
    .unwrap();
    (values, gradient.iter().map(|x| x.to_f64()).collect())
}

/// The largest difference, by the largest number.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-300, |a: f64, b| a.max(b.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(found.iter().all(|x| x.is_finite()));
    worst / largest
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    let mut worst = [0.0_f64; 3];
    for case in golden() {
        let targets = case.targets();
        let rows = case.labels.len();
        let configs: Vec<LossConfig> = case.entries.iter().map(|e| e.loss.clone()).collect();
        let both: Vec<f64> = (0..case.student.len())
            .map(|i| case.entries.iter().map(|entry| entry.gradient[i]).sum())
            .collect();
        let mut trials: Vec<(Vec<LossConfig>, Vec<f64>, Vec<f64>)> = (case.entries.iter())
            .map(|e| (vec![e.loss.clone()], vec![e.value], e.gradient.clone()))
            .collect();
        trials.push((
            configs,
            case.entries.iter().map(|e| e.value).collect(),
            both,
        ));
        for (configs, values, gradient) in trials {
            let entries = LossEntries::new(&configs).unwrap();
            let run = (case.columns, &case.student[..], &case.labels[..]);
            let exact = kernel::<f64>(&entries, run.0, run.1, &targets, run.2, case.scale);
            let single = kernel::<f32>(&entries, run.0, run.1, &targets, run.2, case.scale);
            let logits = Tensor::<2>::from_data(
                TensorData::new(case.student.clone(), [rows, case.columns]),
                (&Device::flex(), DType::F64),
            );
            let labels = Labels {
                targets: &case.labels,
                supervised: &vec![true; rows],
            };
            let (d, sums) =
                sparse_chunk(&entries, logits, &targets, 0, labels, case.scale).unwrap();
            let formula = (
                sums.into_data().try_to_vec::<f64>().unwrap(),
                d.into_data().try_to_vec::<f64>().unwrap(),
            );
            let bounds = [1e-13, 1e-6, 1e-12];
            for (i, (found, bound)) in [exact, single, formula].iter().zip(bounds).enumerate() {
                let off = difference(&found.0, &values).max(difference(&found.1, &gradient));
                worst[i] = worst[i].max(off);
                assert!(off < bound, "{} {configs:?} {i}: {off:e}", case.name);
            }
        }
    }
    println!(
        "worst relative difference: f64 {:e}, f32 {:e}, formula {:e}",
        worst[0], worst[1], worst[2]
    );
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut worst = 0.0_f64;
    for case in golden() {
        let targets = case.targets();
        let configs: Vec<LossConfig> = case.entries.iter().map(|e| e.loss.clone()).collect();
        let entries = LossEntries::new(&configs).unwrap();
        let total = |student: &[f64]| {
            let (values, _) =
                kernel::<f64>(&entries, case.columns, student, &targets, &case.labels, 1.0);
            entries.total(&values)
        };
        let (_, gradient) = kernel::<f64>(
            &entries,
            case.columns,
            &case.student,
            &targets,
            &case.labels,
            1.0,
        );
        let step = 1e-5;
        for i in (0..case.student.len()).step_by(3) {
            let at = |by: f64| {
                let mut student = case.student.clone();
                student[i] += by;
                total(&student)
            };
            let found = (at(step) - at(-step)) / (2.0 * step);
            worst = worst.max((found - gradient[i]).abs());
            assert!((found - gradient[i]).abs() < 1e-7, "{} {i}", case.name);
        }
    }
    println!("worst difference from finite differences: {worst:e}");
}

fn logits(count: usize, seed: u64, size: f64) -> Vec<f32> {
    let mut random = Random::new(seed, "test", 0, "logits");
    // Sums of three: most in the middle, some far out.
    (0..count)
        .map(|_| ((0..3).map(|_| random.f64() * 2.0 - 1.0).sum::<f64>() * size) as f32)
        .collect()
}

/// A row of logits, written and read.
fn stored(logits: &[f32], temperature: f64, encoding: Encoding, seed: u64) -> SparseTargets {
    let distribution = Distribution::new(logits, temperature).unwrap();
    let vocabulary = logits.len();
    let mut bytes = Vec::new();
    let k = match encoding {
        Encoding::TopK(top) => top.k as usize,
        Encoding::Sampled(_) => 12,
    };
    // As `Encoding::golomb_order` has it.
    let order = (vocabulary / k.min(vocabulary))
        .max(1)
        .ilog2()
        .saturating_sub(4);
    match encoding {
        Encoding::TopK(top) => {
            let (ids, logs, tail) = distribution.top_k(k);
            write_top_k(&top, vocabulary, &ids, &logs, tail, &mut bytes);
        }
        Encoding::Sampled(sampled) => {
            let mut random = Random::new(seed, "test", 0, "draws");
            let (ids, counts) = distribution.draw(sampled.samples as usize, &mut random);
            write_sampled(order, &ids, &counts, &mut bytes);
        }
    }
    let mut targets = SparseTargets::new(vocabulary);
    let reader = RecordReader::new(encoding, vocabulary);
    let read = reader.read(&bytes, distribution.entropy, &mut targets);
    assert_eq!(read, Some(bytes.len()));
    targets
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x)).collect()
}

/// Value and gradient with the whole of the teacher's logits.
fn dense(entries: &LossEntries, student: &[f64], teacher: &[f64]) -> (f64, Vec<f64>) {
    let mut gradient = student.to_vec();
    let mut value = [0.0];
    let vocabulary = Vocabulary {
        student: student.len(),
        teacher: teacher.len(),
        valid: teacher.len(),
    };
    let labels = Labels {
        targets: &[0],
        supervised: &[true],
    };
    loss_rows(
        entries,
        vocabulary,
        &mut gradient,
        Some(teacher),
        labels,
        1.0,
        &mut value,
    )
    .unwrap();
    (value[0], gradient)
}

#[test]
fn a_list_of_the_whole_vocabulary_is_forward_kl() {
    let entries = one(r#"{"forward_kl":{"temperature":2}}"#);
    let (mut same, mut rounding) = (0.0_f64, [0.0_f64; 2]);
    for seed in 0..20 {
        let (teacher, student) = (logits(3000, seed, 5.0), logits(3000, 100 + seed, 5.0));
        let student = wide(&student);
        for (at, bits) in [(0, 12), (1, 16)] {
            let encoding = Encoding::TopK(TopK { k: 3000, bits });
            let targets = stored(&teacher, 2.0, encoding, 0);
            assert_eq!(targets.tails, [0.0]);
            let (values, gradient) = kernel::<f64>(&entries, 3000, &student, &targets, &[0], 1.0);
            // The distribution that was stored, as logits at temperature 2.
            let as_logits: Vec<f64> = (targets.probabilities.iter())
                .map(|p| 2.0 * f64::from(*p).ln())
                .collect();
            let (value, expected) = dense(&entries, &student, &as_logits);
            let off = ((values[0] - value) / value)
                .abs()
                .max(difference(&gradient, &expected));
            same = same.max(off);
            assert!(off < 1e-5, "{off:e}");
            // What the codes round away.
            let (value, expected) = dense(&entries, &student, &wide(&teacher));
            let off = ((values[0] - value) / value)
                .abs()
                .max(difference(&gradient, &expected));
            rounding[at] = rounding[at].max(off);
        }
    }
    println!(
        "the whole vocabulary: {same:e} from forward KL of what is stored; from the teacher's own {:e} at 12 bits, {:e} at 16",
        rounding[0], rounding[1]
    );
    assert!(rounding[0] < 3e-3 && rounding[1] < 2e-4);
}

#[test]
fn draws_are_unbiased() {
    let entries = one(r#"{"forward_kl":{"temperature":2}}"#);
    let columns = 400;
    let (teacher, student) = (logits(columns, 1, 6.0), wide(&logits(columns, 2, 6.0)));
    let (value, expected) = dense(&entries, &student, &wide(&teacher));
    let draws = 20_000;
    let encoding = Encoding::Sampled(Sampled { samples: 50 });
    let (mut sums, mut squares) = (vec![0.0; columns + 1], vec![0.0; columns + 1]);
    for seed in 0..draws {
        let targets = stored(&teacher, 2.0, encoding, seed);
        let (values, gradient) = kernel::<f64>(&entries, columns, &student, &targets, &[0], 1.0);
        for (i, x) in gradient.iter().chain(&values).enumerate() {
            sums[i] += x;
            squares[i] += x * x;
        }
    }
    let n = draws as f64;
    let expected: Vec<f64> = expected.into_iter().chain([value]).collect();
    let (mut z_squares, mut drawn) = (0.0, 0.0);
    let mut norm = (0.0, 0.0);
    for (i, exact) in expected.iter().enumerate() {
        let mean = sums[i] / n;
        let variance = squares[i] / n - mean * mean;
        let error = (variance.max(0.0) / n).sqrt();
        if i == columns {
            println!("value {mean:.5} ± {error:.5}, of the whole distribution {exact:.5}");
            assert!((mean - exact).abs() < 4.0 * error);
        } else {
            // Some tokens are never drawn.
            if variance > 1e-12 {
                z_squares += ((mean - exact) / error).powi(2);
                drawn += 1.0;
            }
            norm.0 += (mean - exact).powi(2);
            norm.1 += error * error;
        }
    }
    println!(
        "mean gradient of {draws} draws: off by {:.3e}, standard error {:.3e}; mean square of z {:.3} over {drawn} tokens",
        norm.0.sqrt(),
        norm.1.sqrt(),
        z_squares / drawn
    );
    assert!(norm.0.sqrt() < 1.5 * norm.1.sqrt());
    // The top 12, about as many tokens as are drawn, are biased: the same distance for comparison.
    let top = stored(&teacher, 2.0, Encoding::TopK(TopK { k: 12, bits: 16 }), 0);
    let (_, gradient) = kernel::<f64>(&entries, columns, &student, &top, &[0], 1.0);
    let bias: f64 = (gradient.iter().zip(&expected))
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    println!("top 12 is off by {:.3e}", bias.sqrt());
    assert!(bias.sqrt() > 10.0 * norm.0.sqrt());
}

#[test]
fn what_is_not_defined_or_does_not_fit_is_an_error() {
    let targets = stored(&logits(20, 1, 2.0), 1.0, Encoding::default(), 0);
    let run = |json: &str, columns: usize, label: u32| {
        let mut student = vec![0.0_f32; columns];
        let labels = Labels {
            targets: &[label],
            supervised: &[true],
        };
        let entries = one(json);
        sparse_rows(
            &entries,
            columns,
            &mut student,
            (&targets, 0),
            labels,
            1.0,
            &mut [0.0],
        )
    };
    assert_eq!(
        run(r#"{"reverse_kl":{}}"#, 20, 0),
        Err(LossRowsError::NotSparse { loss: "reverse_kl" })
    );
    assert!(run(r#"{"forward_kl":{}}"#, 19, 0).is_err());
    assert!(run(r#"{"cross_entropy":{}}"#, 20, 20).is_err());
    assert_eq!(run(r#"{"forward_kl":{}}"#, 20, 0), Ok(()));
}

#[test]
fn of_a_position_without_a_target_only_the_label_is_learned() {
    let logits: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut targets = SparseTargets::new(18);
    targets.ids.extend([3, 5]);
    targets.probabilities.extend([0.5, 0.25]);
    let entropy = targets.bucketed_entropy(0, 0.25);
    targets.close(0.25, entropy);
    targets.close(0.0, 0.0);
    let labels = Labels {
        targets: &[4, 7],
        supervised: &[true; 2],
    };
    let configs: Vec<LossConfig> = serde_json::from_value(serde_json::json!([
        { "forward_kl": { "temperature": 2.0 } }, { "cross_entropy": { "weight": 0.5 } },
    ]))
    .unwrap();
    let run = |configs: &[LossConfig]| {
        let entries = LossEntries::new(configs).unwrap();
        let (mut gradient, mut values) = (logits.clone(), vec![0.0; configs.len()]);
        let of = (&targets, 0);
        sparse_rows(&entries, 20, &mut gradient, of, labels, 1.0, &mut values).unwrap();
        let data = TensorData::new(logits.clone(), [2, 20]);
        let tensor = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
        let (formula, sums) = sparse_chunk(&entries, tensor, &targets, 0, labels, 1.0).unwrap();
        let formula: Vec<f32> = formula.into_data().try_to_vec().unwrap();
        let sums: Vec<f32> = sums.into_data().try_to_vec().unwrap();
        for (a, b) in gradient.iter().zip(&formula) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        for (a, b) in values.iter().zip(sums) {
            assert!((a - f64::from(b)).abs() < 1e-5, "{a} {b}");
        }
        (gradient, values)
    };
    let (both, labels_alone) = (run(&configs), run(&configs[1..]));
    assert_eq!(both.0[20..], labels_alone.0[20..]);
    assert_ne!(both.0[..20], labels_alone.0[..20]);
    let (kl, _) = run(&configs[..1]);
    assert!(kl[20..].iter().all(|x| *x == 0.0));
}

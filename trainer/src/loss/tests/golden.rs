//! Values and gradients against `tests/golden/make_row_losses.py`, which computes them from their definitions in PyTorch.

use serde::Deserialize;

use crate::loss::{
    HiddenLoss, Labels, LossConfig, LossEntries, Vocabulary, hidden_rows, label_log_probs,
    loss_rows,
};
use model::ops::real::Real;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    hidden: Vec<Hidden>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    student_vocab: usize,
    teacher_vocab: usize,
    valid: usize,
    student: Vec<Number>,
    teacher: Vec<Number>,
    targets: Vec<u32>,
    supervised: Vec<bool>,
    scale: f64,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    loss: LossConfig,
    value: f64,
    gradient: Vec<f64>,
}

#[derive(Deserialize)]
struct Hidden {
    name: String,
    width: usize,
    student: Vec<f64>,
    teacher: Vec<f64>,
    supervised: Vec<bool>,
    scale: f64,
    mse: Expected,
    cosine: Expected,
}

#[derive(Deserialize)]
struct Expected {
    value: f64,
    gradient: Vec<f64>,
}

/// JSON has no infinities: "-inf" is a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Infinite(String),
}

impl Number {
    fn get(&self) -> f64 {
        match self {
            Self::Finite(x) => *x,
            Self::Infinite(text) => text.parse().unwrap(),
        }
    }
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/golden/row_losses.json")).unwrap()
}

fn run<F: Real>(case: &Case, configs: &[LossConfig]) -> (Vec<f64>, Vec<f64>) {
    let number = |x: &Number| F::from_f64(x.get());
    let mut student: Vec<F> = case.student.iter().map(number).collect();
    let teacher: Vec<F> = case.teacher.iter().map(number).collect();
    let vocabulary = Vocabulary {
        student: case.student_vocab,
        teacher: case.teacher_vocab,
        valid: case.valid,
    };
    let labels = Labels {
        targets: &case.targets,
        supervised: &case.supervised,
    };
    let entries = LossEntries::new(configs).unwrap();
    let mut values = vec![0.0; configs.len()];
    loss_rows(
        &entries,
        vocabulary,
        &mut student,
        Some(&teacher),
        labels,
        F::from_f64(case.scale),
        &mut values,
    )
    .unwrap();
    (values, student.into_iter().map(Real::to_f64).collect())
}

fn norm(x: impl IntoIterator<Item = f64>) -> f64 {
    x.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖Δ‖/‖reference‖, or ‖Δ‖ where the reference is 0.
fn distance(got: &[f64], reference: &[f64]) -> f64 {
    let size = norm(reference.iter().copied());
    let delta = norm(got.iter().zip(reference).map(|(a, b)| a - b));
    if size > 0.0 { delta / size } else { delta }
}

fn every_loss<F: Real>(value_tolerance: f64, gradient_tolerance: f64) {
    let (mut worst_value, mut worst_gradient): (f64, f64) = (0.0, 0.0);
    for case in &golden().cases {
        for entry in &case.entries {
            let (values, gradient) = run::<F>(case, std::slice::from_ref(&entry.loss));
            let by_value = distance(&values, &[entry.value]);
            let by_gradient = distance(&gradient, &entry.gradient);
            assert!(
                by_value <= value_tolerance,
                "{}: {:?}: value off by {by_value:e}",
                case.name,
                entry.loss
            );
            assert!(
                by_gradient <= gradient_tolerance,
                "{}: {:?}: gradient off by {by_gradient:e}",
                case.name,
                entry.loss
            );
            worst_value = worst_value.max(by_value);
            worst_gradient = worst_gradient.max(by_gradient);
        }
    }
    println!("worst relative errors: value {worst_value:e}, gradient {worst_gradient:e}");
}

#[test]
fn every_loss_in_f64() {
    every_loss::<f64>(1e-9, 1e-9);
}

#[test]
fn every_loss_in_f32() {
    every_loss::<f32>(2e-6, 2e-6);
}

#[test]
fn a_mix_is_the_weighted_sum() {
    for case in &golden().cases {
        let mut configs: Vec<LossConfig> = case.entries.iter().map(|e| e.loss.clone()).collect();
        let mut expected = vec![0.0; case.student.len()];
        for (i, (config, entry)) in configs.iter_mut().zip(&case.entries).enumerate() {
            let weight = 0.3 + 0.1 * i as f64;
            set_weight(config, weight);
            for (sum, g) in expected.iter_mut().zip(&entry.gradient) {
                *sum += weight * g;
            }
        }
        let (values, gradient) = run::<f64>(case, &configs);
        for (value, entry) in values.iter().zip(&case.entries) {
            assert!(
                distance(&[*value], &[entry.value]) < 1e-9,
                "{}: {:?}",
                case.name,
                entry.loss
            );
        }
        assert!(distance(&gradient, &expected) < 1e-9, "{}", case.name);
        let entries = LossEntries::new(&configs).unwrap();
        let total: f64 = case
            .entries
            .iter()
            .zip(&configs)
            .map(|(e, c)| c.weight() * e.value)
            .sum();
        assert!(distance(&[entries.total(&values)], &[total]) < 1e-9);
    }
}

fn set_weight(config: &mut LossConfig, weight: f64) {
    match config {
        LossConfig::ForwardKl(c) | LossConfig::ReverseKl(c) | LossConfig::Tvd(c) => {
            c.weight = weight
        }
        LossConfig::Jsd(c) => c.weight = weight,
        LossConfig::SkewKl(c) | LossConfig::SkewReverseKl(c) => c.weight = weight,
        LossConfig::CrossEntropy(c) => c.weight = weight,
        LossConfig::HiddenMse(c) | LossConfig::HiddenCosine(c) => c.weight = weight,
    }
}

#[test]
fn scores_are_the_negative_cross_entropy() {
    for case in golden().cases {
        let logits: Vec<f64> = case.student.iter().map(Number::get).collect();
        let scores = label_log_probs(&logits, case.student_vocab, case.valid, &case.targets);
        let sum: f64 = scores
            .iter()
            .zip(&case.supervised)
            .filter(|(_, counts)| **counts)
            .map(|(s, _)| s)
            .sum();
        let Some(entry) = case
            .entries
            .iter()
            .find(|e| matches!(e.loss, LossConfig::CrossEntropy(_)))
        else {
            continue;
        };
        assert!(distance(&[-sum], &[entry.value]) < 1e-12, "{}", case.name);
    }
}

fn hidden_losses<F: Real>(tolerance: f64) {
    for case in golden().hidden {
        let student: Vec<F> = case.student.iter().map(|&x| F::from_f64(x)).collect();
        let teacher: Vec<F> = case.teacher.iter().map(|&x| F::from_f64(x)).collect();
        for (loss, expected) in [
            (HiddenLoss::Mse, &case.mse),
            (HiddenLoss::Cosine, &case.cosine),
        ] {
            let mut gradient = vec![F::ZERO; student.len()];
            let scale = F::from_f64(case.scale);
            let value = hidden_rows(
                loss,
                case.width,
                &student,
                &teacher,
                &case.supervised,
                scale,
                &mut gradient,
            );
            let gradient: Vec<f64> = gradient.into_iter().map(Real::to_f64).collect();
            assert!(
                distance(&[value], &[expected.value]) < tolerance,
                "{} {loss:?}: {value}",
                case.name
            );
            assert!(
                distance(&gradient, &expected.gradient) < tolerance,
                "{} {loss:?}",
                case.name
            );
        }
    }
}

#[test]
fn hidden_losses_in_both_precisions() {
    hidden_losses::<f64>(1e-12);
    hidden_losses::<f32>(1e-6);
}

#[derive(Deserialize)]
struct TrlJsd {
    vocabulary: usize,
    student: Vec<f64>,
    teacher: Vec<f64>,
    labels: Vec<i64>,
    cases: Vec<TrlJsdCase>,
}

#[derive(Deserialize)]
struct TrlJsdCase {
    beta: f64,
    temperature: f64,
    value: f64,
    gradient: Vec<f64>,
}

/// `make_trl_jsd.py` says what differs on purpose: T², and what is divided by.
#[test]
fn jsd_is_that_of_trl_at_every_beta() {
    let golden: TrlJsd =
        serde_json::from_str(include_str!("../../../tests/golden/trl_jsd.json")).unwrap();
    let supervised: Vec<bool> = golden.labels.iter().map(|label| *label >= 0).collect();
    let count = supervised.iter().filter(|counts| **counts).count() as f64;
    let numbers = |values: &[f64]| values.iter().map(|x| Number::Finite(*x)).collect();
    for trl in &golden.cases {
        let squared = trl.temperature * trl.temperature;
        let case = Case {
            name: "TRL".into(),
            student_vocab: golden.vocabulary,
            teacher_vocab: golden.vocabulary,
            valid: golden.vocabulary,
            student: numbers(&golden.student),
            teacher: numbers(&golden.teacher),
            targets: vec![0; supervised.len()],
            supervised: supervised.clone(),
            scale: 1.0 / (count * squared),
            entries: Vec::new(),
        };
        let settings = serde_json::json!({ "beta": trl.beta, "temperature": trl.temperature });
        let jsd = serde_json::from_value(serde_json::json!({ "jsd": settings })).unwrap();
        let (values, gradient) = run::<f64>(&case, &[jsd]);
        let value = distance(&[values[0] / (count * squared)], &[trl.value]);
        let gradient = distance(&gradient, &trl.gradient);
        println!(
            "β {} T {}: value {value:e}, gradient {gradient:e}",
            trl.beta, trl.temperature
        );
        assert!(value <= 1e-12 && gradient <= 1e-12);
    }
}

//! The distance of sorted probabilities against `tests/golden/make_universal_logit.py`, and its gradient by differences.

use burn::tensor::{DType, Device, Tensor, TensorData};
use model::linear::Weight;
use model::parameter::Parameter;
use model::random::normal_values;
use serde::Deserialize;

use crate::loss::linear_loss::{AlignedStates, TeacherSignal, TeacherStates, linear_loss};
use crate::loss::universal_logit::UniversalLogit;
use crate::loss::{Labels, LossConfig, LossEntries};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    columns: usize,
    teacher_columns: usize,
    temperature: f64,
    scale: f64,
    student: Vec<f32>,
    teacher: Vec<f32>,
    value: f64,
    trl: f64,
    gradient: Vec<f64>,
}

fn loss(temperature: f64) -> UniversalLogit {
    UniversalLogit {
        slot: 0,
        weight: 1.0,
        temperature,
    }
}

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let text = include_str!("../../../tests/golden/universal_logit.json");
    let golden: Golden = serde_json::from_str(text).unwrap();
    for case in golden.cases {
        let rows = case.student.len() / case.columns;
        let chosen: Vec<usize> = (0..rows).collect();
        let found = loss(case.temperature).rows(
            (&case.student, case.columns),
            &chosen,
            (&case.teacher, case.teacher_columns),
            (case.columns, case.teacher_columns),
            case.scale,
        );
        let of_value = (found.value - case.value).abs() / case.value;
        let of_trl = (found.value / rows as f64 - case.trl).abs() / case.trl;
        let pairs = found.gradient.iter().zip(&case.gradient);
        let worst = pairs.fold(0.0_f64, |worst, (a, b)| {
            worst.max((f64::from(*a) - b).abs())
        });
        println!(
            "{}: value {of_value:.1e}, TRL {of_trl:.1e}, gradient {worst:.1e}",
            case.name
        );
        assert!(of_value < 2e-6 && of_trl < 2e-6, "{}", case.name);
        let largest = case
            .gradient
            .iter()
            .fold(0.0_f64, |most, x| most.max(x.abs()));
        assert!(worst < 2e-6 * largest.max(1e-3), "{}", case.name);
    }
}

#[test]
fn padding_has_no_part_and_equal_rows_no_distance() {
    let student = [0.5, -1.0, 2.0, 9.0, 0.25, 0.0, -2.0, 9.0];
    let teacher = [1.0, 0.0, 7.0, 7.0, -1.0, 0.5, 7.0, 7.0];
    let one = loss(1.0);
    let found = one.rows((&student, 4), &[1], (&teacher[4..], 4), (3, 2), 1.0);
    let alone = one.rows(
        (&[0.25, 0.0, -2.0], 3),
        &[0],
        (&[-1.0, 0.5], 2),
        (3, 2),
        1.0,
    );
    assert_eq!(found.value, alone.value);
    assert_eq!(found.gradient, [&alone.gradient[..], &[0.0]].concat());
    // Another order of the same numbers is no distance.
    let permuted = [2.0, 0.5, -1.0];
    let same = one.rows((&student, 4), &[0], (&permuted, 3), (3, 3), 1.0);
    assert_eq!(same.value, 0.0);
    assert!(same.gradient.iter().all(|x| *x == 0.0));
}

fn tensor(rows: usize, columns: usize, name: &str) -> Tensor<2> {
    let values = normal_values(rows * columns, 7, name, 1.0);
    let data = TensorData::new(values, [rows, columns]);
    Tensor::from_data(data, (&Device::flex(), DType::F32))
}

fn weight(value: Tensor<2>) -> Weight {
    Weight::Dense(Parameter::new("head", value.dims().to_vec(), value))
}

/// Five supervised positions of seven, of which three have a partner.
fn total(hidden: &Tensor<2>, head: &Tensor<2>) -> (f64, Tensor<2>, Tensor<2>) {
    let configs = [
        LossConfig::UniversalLogit(crate::loss::config::Tempered {
            weight: 0.75,
            temperature: 1.5,
        }),
        LossConfig::CrossEntropy(Default::default()),
    ];
    let entries = LossEntries::new(&configs).unwrap();
    let aligned = AlignedStates {
        states: TeacherStates {
            hidden: tensor(6, 3, "teacher"),
            head: weight(tensor(11, 3, "teacher head")),
        },
        partners: vec![Some(4), None, Some(0), Some(5), None],
        valid: 10,
    };
    let labels = Labels {
        targets: &[1, 2, 3, 4, 5, 6, 7],
        supervised: &[true, false, true, true, true, false, true],
    };
    let mut head = weight(head.clone());
    let signal = Some(TeacherSignal::Aligned(&aligned));
    let found = linear_loss(&entries, hidden, &mut head, signal, labels, 8, 0.2).unwrap();
    let Weight::Dense(parameter) = head else {
        unreachable!("the head is dense");
    };
    let total = 0.2 * entries.total(&found.values.read());
    (total, found.d_hidden, parameter.gradient.unwrap())
}

#[test]
fn the_gradient_is_that_of_the_value() {
    let (hidden, head) = (tensor(7, 4, "hidden"), tensor(9, 4, "head"));
    let (_, d_hidden, d_head) = total(&hidden, &head);
    let moved = |x: &Tensor<2>, at: usize, by: f32| {
        let mut values: Vec<f32> = x.clone().into_data().try_to_vec().unwrap();
        values[at] += by;
        Tensor::from_data(TensorData::new(values, x.dims()), (&x.device(), DType::F32))
    };
    let (step, mut worst) = (4e-3_f32, 0.0_f64);
    let gradients: [Vec<f32>; 2] =
        [d_hidden, d_head].map(|gradient| gradient.into_data().try_to_vec().unwrap());
    for (at, found) in gradients[0].iter().enumerate() {
        let side = |by| total(&moved(&hidden, at, by), &head).0;
        let slope = (side(step) - side(-step)) / f64::from(2.0 * step);
        worst = worst.max((slope - f64::from(*found)).abs());
    }
    for (at, found) in gradients[1].iter().enumerate() {
        let side = |by| total(&hidden, &moved(&head, at, by)).0;
        let slope = (side(step) - side(-step)) / f64::from(2.0 * step);
        worst = worst.max((slope - f64::from(*found)).abs());
    }
    println!("slopes differ by {worst:.1e} at most");
    assert!(worst < 2e-4);
    // Positions that are not supervised.
    assert!(
        gradients[0][4..8]
            .iter()
            .chain(&gradients[0][20..24])
            .all(|x| *x == 0.0)
    );
}

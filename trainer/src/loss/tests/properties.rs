//! What must hold for any logits, over seeded random rows of awkward sizes.

use crate::loss::{
    Labels, LossConfig, LossEntries, LossRowsError, Vocabulary, accumulate_row, loss_rows,
};
use model::ops::real::Real;

const SIZES: [usize; 14] = [1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 511, 512, 513, 1000];

const LOSSES: [&str; 10] = [
    r#"{"forward_kl":{"temperature":2}}"#,
    r#"{"reverse_kl":{"temperature":1.5}}"#,
    r#"{"jsd":{}}"#,
    r#"{"jsd":{"beta":0.2,"temperature":3}}"#,
    r#"{"skew_kl":{"temperature":0.7}}"#,
    r#"{"skew_kl":{"alpha":0.6}}"#,
    r#"{"skew_reverse_kl":{"temperature":0.7}}"#,
    r#"{"skew_reverse_kl":{"alpha":0.6}}"#,
    r#"{"tvd":{"temperature":2}}"#,
    r#"{"cross_entropy":{}}"#,
];

/// SplitMix64: the tests' own random numbers, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in ±`size`, in numbers that f32 holds.
    fn logits(&mut self, n: usize, size: f64) -> Vec<f64> {
        let unit = |bits: u64| (bits >> 41) as f64 / (1u64 << 22) as f64 - 1.0;
        (0..n)
            .map(|_| f64::from((size * unit(self.next())) as f32))
            .collect()
    }
}

fn parse(json: &str) -> LossConfig {
    serde_json::from_str(json).unwrap()
}

fn one(json: &str) -> LossEntries {
    LossEntries::new(&[parse(json)]).unwrap()
}

/// Value and gradient of one row whose columns are all valid.
fn row<F: Real>(
    entries: &LossEntries,
    student: &[f64],
    teacher: &[f64],
    label: usize,
) -> (f64, Vec<f64>) {
    let mut gradient: Vec<F> = student.iter().map(|&x| F::from_f64(x)).collect();
    let teacher: Vec<F> = teacher.iter().map(|&x| F::from_f64(x)).collect();
    let mut values = vec![0.0; entries.count()];
    let valid = student.len();
    accumulate_row(
        entries,
        &mut gradient,
        Some(&teacher),
        valid,
        label as u32,
        F::ONE,
        &mut values,
    );
    (
        entries.total(&values),
        gradient.into_iter().map(Real::to_f64).collect(),
    )
}

/// What f32 may be off where terms cancel: 1e-7, times T².
fn absolute_error(entries: &LossEntries) -> f64 {
    entries
        .configs()
        .iter()
        .filter_map(LossConfig::temperature)
        .map(|t| 1e-7 * t.max(1.0) * t.max(1.0))
        .sum()
}

fn each_row(mut test: impl FnMut(&str, &LossEntries, &[f64], &[f64], usize)) {
    let mut random = Random(11);
    for size in SIZES {
        for json in LOSSES {
            let (student, teacher) = (random.logits(size, 5.0), random.logits(size, 5.0));
            let label = random.below(size);
            test(
                &format!("{json} of {size}"),
                &one(json),
                &student,
                &teacher,
                label,
            );
        }
    }
}

#[test]
fn finite_differences_agree() {
    let mut random = Random(5);
    each_row(|name, entries, student, teacher, label| {
        let (_, gradient) = row::<f64>(entries, student, teacher, label);
        for _ in 0..4 {
            let at = random.below(student.len());
            let step = 1e-5;
            let moved = |by: f64| {
                let mut student = student.to_vec();
                student[at] += by;
                row::<f64>(entries, &student, teacher, label).0
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (slope - gradient[at]).abs() < 1e-8 + 1e-6 * slope.abs(),
                "{name}: {slope} and {}",
                gradient[at]
            );
        }
    });
}

#[test]
fn gradients_sum_to_zero() {
    each_row(|name, entries, student, teacher, label| {
        let (_, gradient) = row::<f64>(entries, student, teacher, label);
        assert!(gradient.iter().sum::<f64>().abs() < 1e-12, "{name}");
        let (_, gradient) = row::<f32>(entries, student, teacher, label);
        let size = gradient.iter().map(|g| g.abs()).sum::<f64>();
        assert!(
            gradient.iter().sum::<f64>().abs() < 2e-6 * (1.0 + size),
            "{name}"
        );
    });
}

#[test]
fn both_precisions_agree() {
    each_row(|name, entries, student, teacher, label| {
        let (value, gradient) = row::<f64>(entries, student, teacher, label);
        let (value32, gradient32) = row::<f32>(entries, student, teacher, label);
        assert!(
            (value32 - value).abs() <= 1e-6 * value.abs() + absolute_error(entries),
            "{name}: {value32} and {value}"
        );
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let delta = gradient
            .iter()
            .zip(&gradient32)
            .map(|(a, b)| (a - b) * (a - b))
            .sum::<f64>()
            .sqrt();
        assert!(delta <= 1e-6 * size + 1e-7, "{name}: {delta} of {size}");
    });
}

#[test]
fn divergences_are_not_negative_and_vanish_at_equality() {
    each_row(|name, entries, student, teacher, label| {
        if !entries.needs_teacher_logits() {
            return;
        }
        assert!(
            row::<f64>(entries, student, teacher, label).0 >= -1e-15,
            "{name}"
        );
        assert!(
            row::<f32>(entries, student, teacher, label).0 >= -1e-7,
            "{name}"
        );
        // A shift of the whole row changes no distribution.
        let shifted: Vec<f64> = student.iter().map(|x| x + 3.0).collect();
        let (value, gradient) = row::<f64>(entries, &shifted, student, label);
        assert!(value.abs() < 1e-14, "{name}: {value}");
        if !name.contains("tvd") {
            assert!(gradient.iter().all(|g| g.abs() < 1e-14), "{name}");
        }
        let (value, gradient) = row::<f32>(entries, student, student, label);
        assert!(value.abs() < 3e-7, "{name}: {value}");
        assert!(gradient.iter().all(|g| g.abs() < 3e-7), "{name}");
    });
}

/// Late in training both sides are close, and f32 has to tell small differences of probabilities.
#[test]
fn near_agreement_keeps_its_digits() {
    let mut random = Random(17);
    for json in LOSSES {
        let entries = one(json);
        let teacher = random.logits(20_000, 6.0);
        let nudge = random.logits(20_000, 0.05);
        let student: Vec<f64> = teacher
            .iter()
            .zip(nudge)
            .map(|(t, n)| f64::from((t + n) as f32))
            .collect();
        let (value, gradient) = row::<f64>(&entries, &student, &teacher, 0);
        let (value32, gradient32) = row::<f32>(&entries, &student, &teacher, 0);
        let delta = gradient
            .iter()
            .zip(&gradient32)
            .map(|(a, b)| (a - b) * (a - b))
            .sum::<f64>()
            .sqrt();
        let by_gradient = delta / gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        println!(
            "{json}: {value:e}, off by {:e}; gradient by {by_gradient:e}",
            value32 - value
        );
        assert!(
            (value32 - value).abs() <= 1e-6 * value + absolute_error(&entries),
            "{json}"
        );
        assert!(by_gradient < 2e-5, "{json}: {by_gradient:e}");
    }
}

#[test]
fn one_column_has_nothing_to_learn() {
    for json in LOSSES {
        let (value, gradient) = row::<f32>(&one(json), &[3.0], &[-8.0], 0);
        assert_eq!((value, gradient[0]), (0.0, 0.0), "{json}");
    }
}

#[test]
fn jsd_tends_to_kl_and_its_ends_are_kl() {
    let mut random = Random(3);
    let (student, teacher) = (random.logits(40, 2.0), random.logits(40, 2.0));
    let value = |json: &str| row::<f64>(&one(json), &student, &teacher, 0).0;
    let (forward, reverse) = (value(r#"{"forward_kl":{}}"#), value(r#"{"reverse_kl":{}}"#));
    assert_eq!(value(r#"{"jsd":{"beta":0}}"#), forward);
    assert_eq!(value(r#"{"jsd":{"beta":1}}"#), reverse);
    assert!((value(r#"{"jsd":{"beta":0.001}}"#) / 1e-3 / forward - 1.0).abs() < 0.02);
    assert!((value(r#"{"jsd":{"beta":0.999}}"#) / 1e-3 / reverse - 1.0).abs() < 0.02);
    assert_eq!(value(r#"{"skew_kl":{"alpha":0}}"#), forward);
    assert_eq!(value(r#"{"skew_reverse_kl":{"alpha":0}}"#), reverse);
}

#[test]
fn hot_logits_stay_finite() {
    let mut random = Random(8);
    for size in [60.0, 1e4] {
        for json in LOSSES {
            for n in [2, 9, 700] {
                let (mut student, teacher) = (random.logits(n, size), random.logits(n, size));
                student[n / 2] = size;
                let entries = one(json);
                let (value, gradient) = row::<f32>(&entries, &student, &teacher, 0);
                assert!(
                    value.is_finite() && gradient.iter().all(|g| g.is_finite()),
                    "{json} of {n} at {size}"
                );
                let (exact, _) = row::<f64>(&entries, &student, &teacher, 0);
                let tolerance = 1e-6 * exact.abs() + absolute_error(&entries);
                assert!(
                    (value - exact).abs() <= tolerance,
                    "{json}: {value} and {exact}"
                );
            }
        }
    }
}

#[test]
fn minus_infinity_means_no_mass() {
    let masked = [0.5, f64::NEG_INFINITY, -0.5, 1.0];
    let open = [1.0, 0.25, -2.0, 0.0];
    let value = |json: &str, s: &[f64], t: &[f64]| row::<f32>(&one(json), s, t, 0).0;
    assert_eq!(value(r#"{"reverse_kl":{}}"#, &open, &masked), f64::INFINITY);
    assert_eq!(value(r#"{"forward_kl":{}}"#, &masked, &open), f64::INFINITY);
    assert!(value(r#"{"forward_kl":{}}"#, &open, &masked).is_finite());
    assert!(value(r#"{"reverse_kl":{}}"#, &masked, &open).is_finite());
    let entries = one(r#"{"cross_entropy":{}}"#);
    assert_eq!(row::<f32>(&entries, &masked, &open, 1).0, f64::INFINITY);
    // Masked on both sides it is as if the column were not there.
    for json in LOSSES {
        let (mut s, mut t) = (open.to_vec(), vec![0.5, 1.0, 2.0, -1.0]);
        s.insert(2, f64::NEG_INFINITY);
        t.insert(2, f64::NEG_INFINITY);
        let (with, gradient) = row::<f64>(&one(json), &s, &t, 0);
        let (without, _) = row::<f64>(&one(json), &open, &[0.5, 1.0, 2.0, -1.0], 0);
        assert!((with - without).abs() < 1e-15, "{json}");
        assert_eq!(gradient[2], 0.0, "{json}");
    }
}

#[test]
fn broken_logits_are_seen_in_the_value() {
    for json in LOSSES {
        for broken in [f64::NAN, f64::INFINITY] {
            for n in [3, 600] {
                let mut student = vec![0.5; n];
                student[n - 1] = broken;
                assert!(
                    row::<f32>(&one(json), &student, &vec![0.0; n], 0)
                        .0
                        .is_nan(),
                    "{json}: {broken}"
                );
            }
        }
        let nothing = [f64::NEG_INFINITY; 3];
        let (value, _) = row::<f32>(&one(json), &nothing, &[0.0; 3], 0);
        assert!(!value.is_finite(), "{json}");
    }
}

/// 5 rows with padding of different widths on both sides, and what is left of them without the padding.
struct Padded {
    vocabulary: Vocabulary,
    student: Vec<f32>,
    teacher: Vec<f32>,
    targets: Vec<u32>,
    supervised: Vec<bool>,
}

fn padded(fill: f32) -> Padded {
    let mut random = Random(21);
    let vocabulary = Vocabulary {
        student: 520,
        teacher: 530,
        valid: 515,
    };
    let mut wide = |columns: usize| -> Vec<f32> {
        let shape = |mut row: Vec<f64>| {
            row.resize(columns, f64::from(fill));
            row.into_iter().map(|x| x as f32)
        };
        (0..5)
            .flat_map(|_| shape(random.logits(515, 3.0)))
            .collect()
    };
    let (student, teacher) = (wide(520), wide(530));
    Padded {
        vocabulary,
        student,
        teacher,
        targets: vec![4, 9, 514, 0, 77],
        supervised: vec![true, false, true, true, false],
    }
}

fn run(p: &Padded, losses: &[&str]) -> (Vec<f32>, Vec<f64>) {
    let configs: Vec<LossConfig> = losses.iter().map(|json| parse(json)).collect();
    let entries = LossEntries::new(&configs).unwrap();
    let mut gradient = p.student.clone();
    let mut values = vec![0.0; entries.count()];
    let labels = Labels {
        targets: &p.targets,
        supervised: &p.supervised,
    };
    loss_rows(
        &entries,
        p.vocabulary,
        &mut gradient,
        Some(&p.teacher),
        labels,
        0.25,
        &mut values,
    )
    .unwrap();
    (gradient, values)
}

#[test]
fn padding_is_invisible_whatever_it_holds() {
    let reference = run(&padded(0.0), &LOSSES);
    for fill in [50.0, -3.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(run(&padded(fill), &LOSSES), reference, "padding of {fill}");
    }
    for row in reference.0.chunks(520) {
        assert_eq!(row[515..], [0.0; 5]);
    }
}

#[test]
fn unsupervised_rows_get_nothing() {
    let mut p = padded(0.0);
    let reference = run(&p, &LOSSES);
    for row in [1, 4] {
        assert_eq!(reference.0[row * 520..(row + 1) * 520], [0.0; 520]);
        p.student[row * 520] = f32::NAN;
        p.targets[row] = u32::MAX;
    }
    assert_eq!(run(&p, &LOSSES), reference);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let p = padded(0.0);
    let on = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| run(&p, &LOSSES))
    };
    let (one, three) = (on(1), on(3));
    assert_eq!(one.1, three.1);
    assert!(
        one.0
            .iter()
            .zip(&three.0)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

#[test]
fn values_are_added_to_and_scale_is_only_in_the_gradient() {
    let p = padded(0.0);
    let entries = one(LOSSES[0]);
    let labels = Labels {
        targets: &p.targets,
        supervised: &p.supervised,
    };
    let mut values = [100.0];
    let mut doubled = p.student.clone();
    loss_rows(
        &entries,
        p.vocabulary,
        &mut doubled,
        Some(&p.teacher),
        labels,
        0.5,
        &mut values,
    )
    .unwrap();
    let (gradient, single) = run(&p, &LOSSES[..1]);
    assert_eq!(values[0], 100.0 + single[0]);
    assert!(doubled.iter().zip(&gradient).all(|(a, b)| *a == 2.0 * b));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let attempt = |edit: fn(&mut Padded), teacher: bool, losses: &str| {
        let mut p = padded(0.0);
        edit(&mut p);
        let labels = Labels {
            targets: &p.targets,
            supervised: &p.supervised,
        };
        let teacher = teacher.then_some(&p.teacher[..]);
        loss_rows(
            &one(losses),
            p.vocabulary,
            &mut p.student,
            teacher,
            labels,
            1.0,
            &mut [0.0],
        )
    };
    let ce = r#"{"cross_entropy":{}}"#;
    let kl = r#"{"forward_kl":{}}"#;
    assert_eq!(attempt(|_| (), false, ce), Ok(()));
    assert_eq!(attempt(|_| (), false, kl), Err(LossRowsError::NoTeacher));
    let label = LossRowsError::Label {
        position: 2,
        label: 515,
        valid: 515,
    };
    assert_eq!(attempt(|p| p.targets[2] = 515, true, ce), Err(label));
    assert_eq!(attempt(|p| p.targets[2] = 515, true, kl), Ok(()));
    assert!(matches!(
        attempt(|p| p.vocabulary.valid = 521, true, kl),
        Err(LossRowsError::TooFewColumns { .. })
    ));
    assert!(matches!(
        attempt(|p| _ = p.teacher.pop(), true, kl),
        Err(LossRowsError::Length { .. })
    ));
    assert!(matches!(
        attempt(|p| _ = p.targets.pop(), true, kl),
        Err(LossRowsError::Length { .. })
    ));
}

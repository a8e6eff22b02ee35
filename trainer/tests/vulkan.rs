//! Training on a Vulkan device against the CPU: the kernels of losses and optimizer, and whole steps. Runs where such a
//! device is; a software renderer will do.
#![cfg(feature = "vulkan")]

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use datasets::batch::Batch;
use model::batch::TokenBatch;
use model::build::{Placement, vulkan_devices};
use model::decoder::Decoder;
use model::load::load_decoder;
use model::weights::checkpoint::Checkpoint;
use teacher::error::TeacherError;
use teacher::signal::Signal;
use teacher::teacher::{Teacher, Vocabulary};
use trainer::loss::linear_loss::{TeacherStates, linear_loss};
use trainer::loss::{Labels, LossConfig, LossEntries, cube, formula, loss_rows};
use trainer::objective::{Guide, Objective, TokenObjective, Trainee};
use trainer::optim::adamw::{AdamW, AdamWConfig};
use trainer::step::{Step, StepConfig, StepError, start_step, train_step};

fn device() -> Option<Device> {
    let device = vulkan_devices().into_iter().next();
    if device.is_none() {
        eprintln!("skipped: this machine has no Vulkan device");
    }
    device
}

fn losses(list: serde_json::Value) -> LossEntries {
    let configs: Vec<LossConfig> = serde_json::from_value(list).unwrap();
    LossEntries::new(&configs).unwrap()
}

fn values(tensor: &Tensor<2>) -> Vec<f64> {
    let data = tensor.to_data().convert::<f64>();
    data.try_to_vec().unwrap()
}

fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (distance / norm.max(1e-30)).sqrt()
}

/// Values in (−scale, scale) from a multiplicative hash.
fn random(count: usize, seed: u64, scale: f32) -> Vec<f32> {
    let value = |i: usize| {
        let bits = (i as u64 + 1 + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((bits >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..count).map(value).collect()
}

fn matrix(values: &[f32], rows: usize, device: &Device) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [rows, values.len() / rows]);
    Tensor::from_data(data, (device, DType::F32))
}

fn every_loss() -> Vec<LossEntries> {
    let alone = [
        serde_json::json!([{ "forward_kl": { "temperature": 2.0 } }]),
        serde_json::json!([{ "reverse_kl": { "weight": 0.5 } }]),
        serde_json::json!([{ "jsd": { "beta": 0.3, "temperature": 3.0 } }]),
        serde_json::json!([{ "skew_kl": { "temperature": 1.5 } }]),
        serde_json::json!([{ "skew_reverse_kl": { "alpha": 0.2 } }]),
        serde_json::json!([{ "tvd": { "temperature": 2.0 } }]),
        serde_json::json!([{ "cross_entropy": { "weight": 0.1 } }]),
    ];
    let together = serde_json::json!([
        { "forward_kl": { "temperature": 2.0 } },
        { "hidden_mse": { "layers": [[0, 0]] } },
        { "reverse_kl": { "weight": 0.5 } },
        { "jsd": { "beta": 0.3, "temperature": 2.0 } },
        { "jsd": { "beta": 1.0 } },
        { "cross_entropy": { "weight": 0.1 } },
        { "skew_kl": { "temperature": 1.5 } },
        { "skew_reverse_kl": {} },
        { "tvd": { "temperature": 2.0 } },
    ]);
    alone.into_iter().chain([together]).map(losses).collect()
}

#[test]
fn the_row_kernel_equals_loop_and_formula() {
    let Some(device) = device() else { return };
    for (rows, columns, padding) in [(1, 1, 0), (3, 17, 0), (2, 300, 44), (5, 2049, 1)] {
        let student = random(rows * (columns + padding), 1, 6.0);
        let teacher = random(rows * columns, 2, 6.0);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 13 % columns) as u32).collect();
        let labels = Labels {
            targets: &targets,
            supervised: &vec![true; rows],
        };
        let vocabulary = trainer::loss::Vocabulary {
            student: columns + padding,
            teacher: columns,
            valid: columns,
        };
        for entries in every_loss() {
            let mut sums = Tensor::<1>::zeros([entries.count()], (&device, DType::F32));
            let logits = matrix(&student, rows, &device);
            let teacher_logits = matrix(&teacher, rows, &device);
            let got = cube::rows::loss_rows(
                &entries,
                vocabulary,
                logits.clone(),
                Some(teacher_logits.clone()),
                labels,
                0.25,
                &mut sums,
            )
            .unwrap();
            let sums: Vec<f64> = sums.into_data().convert::<f64>().try_to_vec().unwrap();

            let wide = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<_>>();
            let (mut gradient, teacher_rows) = (wide(&student), wide(&teacher));
            let mut expected = vec![0.0; entries.count()];
            loss_rows::<f64>(
                &entries,
                vocabulary,
                &mut gradient,
                Some(&teacher_rows),
                labels,
                0.25,
                &mut expected,
            )
            .unwrap();
            let context = format!("{rows} × {columns}, {:?}", entries.configs());
            assert!(
                relative(&sums, &expected) < 1e-5,
                "{sums:?} {expected:?} {context}"
            );
            // One column alone has no gradient to be relative to.
            if columns > 1 {
                let difference = relative(&values(&got), &gradient);
                assert!(difference < 1e-5, "{difference:e} {context}");
            }
            let mut by_formula = vec![0.0; entries.count()];
            let teacher = Some(teacher_logits);
            let d = formula::chunk_loss(
                &entries,
                vocabulary,
                logits,
                teacher,
                labels,
                0.25,
                &mut by_formula,
            );
            assert!(
                relative(&sums, &by_formula) < 1e-4,
                "{sums:?} {by_formula:?} {context}"
            );
            if columns > 1 {
                let difference = relative(&values(&got), &values(&d.unwrap()));
                assert!(difference < 1e-4, "{difference:e} {context}");
            }
        }
    }
}

/// Where one side has no probability: finite, infinite and undefined as on the CPU.
#[test]
fn the_row_kernel_masks_as_the_loop_does() {
    let Some(device) = device() else { return };
    let low = f32::NEG_INFINITY;
    let cases = [
        ([1.0, low, 2.0], [0.5, low, 1.0]),
        ([1.0, 0.0, 2.0], [0.5, low, 1.0]),
        ([1.0, low, 2.0], [0.5, 0.0, 1.0]),
        ([1.0, f32::NAN, 2.0], [0.5, 0.0, 1.0]),
        ([low, low, low], [0.5, 0.0, 1.0]),
        ([90.0, -90.0, 0.0], [-90.0, 90.0, 0.0]),
    ];
    for (student, teacher) in cases {
        for entries in every_loss() {
            let vocabulary = trainer::loss::Vocabulary {
                student: 3,
                teacher: 3,
                valid: 3,
            };
            let labels = Labels {
                targets: &[1],
                supervised: &[true],
            };
            let mut sums = Tensor::<1>::zeros([entries.count()], (&device, DType::F32));
            let logits = matrix(&student, 1, &device);
            let teacher_logits = Some(matrix(&teacher, 1, &device));
            let rows = cube::rows::loss_rows;
            let got = rows(
                &entries,
                vocabulary,
                logits,
                teacher_logits,
                labels,
                1.0,
                &mut sums,
            );
            let got = values(&got.unwrap());
            let sums: Vec<f64> = sums.into_data().convert::<f64>().try_to_vec().unwrap();
            let (mut gradient, mut expected) = (student, vec![0.0; entries.count()]);
            let teacher = Some(&teacher[..]);
            loss_rows(
                &entries,
                vocabulary,
                &mut gradient,
                teacher,
                labels,
                1.0,
                &mut expected,
            )
            .unwrap();
            for (got, expected) in sums.iter().zip(&expected) {
                let same = (got - expected).abs() <= 1e-4 * expected.abs().max(1.0)
                    || got == expected
                    || (got.is_nan() && expected.is_nan());
                assert!(
                    same,
                    "{got} {expected} {student:?} {teacher:?} {:?}",
                    entries.configs()
                );
            }
            if expected.iter().all(|value| value.is_finite()) {
                let gradient: Vec<f64> = gradient.iter().copied().map(f64::from).collect();
                let apart = got.iter().zip(&gradient).map(|(a, b)| (a - b).abs());
                assert!(apart.fold(0.0, f64::max) < 1e-5, "{got:?} {gradient:?}");
            }
        }
    }
}

#[test]
fn a_teacher_with_fewer_tokens_than_columns() {
    let Some(device) = device() else { return };
    let entries = losses(serde_json::json!([
        { "forward_kl": { "temperature": 2.0 } },
        { "cross_entropy": { "weight": 0.1 } },
    ]));
    let (tokens, width) = (7, 6);
    let supervised: Vec<bool> = (0..tokens).map(|i| i != 3).collect();
    let labels = Labels {
        targets: &[1, 2, 3, 4, 5, 6, 0],
        supervised: &supervised,
    };
    let run = |device: &Device| {
        let head = matrix(&random(12 * width, 1, 1.0), 12, device);
        let mut head = model::parameter::Parameter::new("head", vec![12, width], head);
        let teacher = TeacherStates {
            hidden: matrix(&random(tokens * width, 2, 1.0), tokens, device),
            head: matrix(&random(9 * width, 3, 1.0), 9, device),
        };
        let hidden = matrix(&random(tokens * width, 4, 1.0), tokens, device);
        let loss = linear_loss(
            &entries,
            &hidden,
            &mut head,
            Some((&teacher).into()),
            labels,
            8,
            0.5,
        )
        .unwrap();
        let d_head = values(&head.gradient.unwrap());
        (loss.values.read(), values(&loss.d_hidden), d_head)
    };
    let (cpu, vulkan) = (run(&Device::flex()), run(&device));
    assert!(relative(&vulkan.0, &cpu.0) < 1e-5);
    assert!(relative(&vulkan.1, &cpu.1) < 1e-5);
    assert!(relative(&vulkan.2, &cpu.2) < 1e-5);
}

fn decoder(name: &str, device: &Device) -> Decoder {
    let placement = Placement {
        device: device.clone(),
        weights: DType::F32,
        compute: DType::F32,
    };
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    load_decoder(&Checkpoint::open(&path.join(name)).unwrap(), &placement).unwrap()
}

struct Frozen(Decoder);

impl Teacher for Frozen {
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError> {
        let (hidden, layers) = self.0.hidden_and_layers(batch, layers);
        Ok(Signal {
            hidden,
            head: self.0.head().value.clone(),
            layers,
        })
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        unreachable!("the trainer does not ask for it")
    }
}

/// Rows of several lengths, packed and padded.
fn batch(vocabulary: u32) -> Batch {
    let mut batch = Batch::padding(6, 20, 0);
    for i in 0..batch.ids.len() {
        let (row, column) = (i / 20, i % 20);
        if column >= 20 - row {
            continue;
        }
        let id = |i: usize| (i as u32 * 37 + 11) % vocabulary;
        batch.ids[i] = id(i);
        batch.targets[i] = id(i + 1);
        batch.positions[i] = (column % 9) as u32;
        batch.segments[i] = 1 + column as u32 / 9;
        batch.supervised[i] = column % 9 != 8 && (column + row) % 5 != 0;
    }
    batch
}

fn step_config(clip_norm: f64) -> StepConfig {
    StepConfig {
        micro_rows: 4,
        checkpoint_blocks: false,
        clip_norm,
    }
}

fn adamw() -> AdamW {
    AdamW::new(AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    })
}

fn distillation() -> LossEntries {
    losses(serde_json::json!([
        { "forward_kl": { "weight": 0.7, "temperature": 2.0 } },
        { "cross_entropy": { "weight": 0.2 } },
        { "jsd": { "weight": 0.3 } },
        { "hidden_mse": { "weight": 0.5, "layers": [[1, 1], [2, 2]] } },
        { "hidden_cosine": { "weight": 0.5, "layers": [[2, 1]] } },
    ]))
}

/// Every student, three whole steps of distillation: losses, norms, first gradients and the weights at the end.
#[test]
fn three_steps_of_distillation_equal_those_on_the_cpu() {
    let Some(device) = device() else { return };
    for name in ["llama_gqa", "qwen3"] {
        let run = |device: &Device| {
            let teacher = Frozen(decoder("llama_tied", device));
            let mut trainee = Trainee::new(decoder(name, device));
            let entries = distillation();
            let width = teacher.0.config.hidden_size;
            trainee.add_projections(&entries, width, 7);
            let objective = Objective::Tokens(TokenObjective {
                entries,
                teacher: Some(Guide::Model(&teacher)),
                valid: 80,
            });
            let config = step_config(0.5);
            let mut optimizer = adamw();
            trainer::step::accumulate_gradients(&mut trainee, &objective, &batch(80), config)
                .unwrap();
            let gradients: Vec<(String, Vec<f64>)> = (trainee.parameters_mut())
                .filter_map(|p| Some((p.name.clone(), values(&p.gradient.take()?))))
                .collect();
            let mut steps = Vec::new();
            for step in 0..3 {
                let lr = 1e-3 / f64::from(step + 1);
                let report = train_step(
                    &mut trainee,
                    &mut optimizer,
                    &objective,
                    &batch(80),
                    config,
                    lr,
                );
                steps.push(report.unwrap());
            }
            let weights: Vec<(String, Vec<f64>)> = (trainee.parameters())
                .map(|p| (p.name.clone(), values(&p.value)))
                .collect();
            (gradients, steps, weights)
        };
        let (cpu, vulkan) = (run(&Device::flex()), run(&device));
        let mut worst = [0.0_f64; 3];
        for (a, b) in vulkan.1.iter().zip(&cpu.1) {
            let apart = (a.loss / b.loss - 1.0)
                .abs()
                .max((a.gradient_norm / b.gradient_norm - 1.0).abs());
            worst[0] = worst[0].max(apart).max(relative(&a.values, &b.values));
        }
        for (place, (a, b)) in [(1, (&vulkan.0, &cpu.0)), (2, (&vulkan.2, &cpu.2))] {
            assert_eq!(a.len(), b.len());
            for ((name, a), (_, b)) in a.iter().zip(b) {
                let difference = relative(a, b);
                assert!(difference < 1e-4, "{name}: {difference:e}");
                worst[place] = worst[place].max(difference);
            }
        }
        println!("{name}: losses and norms, gradients, weights differ by {worst:.1e?} at most");
        assert!(worst[0] < 1e-4, "{worst:?}");
    }
}

/// A step that is not finite changes nothing, nor does one that follows before anybody has looked.
#[test]
fn a_step_that_is_not_finite_leaves_the_weights() {
    let Some(device) = device() else { return };
    let objective = Objective::Tokens(TokenObjective {
        entries: losses(serde_json::json!([{ "cross_entropy": {} }])),
        teacher: None,
        valid: 80,
    });
    let mut trainee = Trainee::new(decoder("llama_gqa", &device));
    let mut optimizer = adamw();
    let config = step_config(1.0);
    let mut start = |trainee: &mut Trainee, lr: f64| {
        start_step(trainee, &mut optimizer, &objective, &batch(80), config, lr).unwrap()
    };
    let good = start(&mut trainee, 1e-3);
    // A weight that overflows to infinity makes the next loss NaN.
    let name = "model.norm.weight";
    let norm = trainee.parameters_mut().find(|p| p.name == name).unwrap();
    let whole = norm.value.clone();
    norm.value = whole.clone() * f32::INFINITY;
    let bad = start(&mut trainee, 1e-3);
    let norm = trainee.parameters_mut().find(|p| p.name == name).unwrap();
    norm.value = whole;
    let before: Vec<Vec<f64>> = trainee.parameters().map(|p| values(&p.value)).collect();
    let after_it = start(&mut trainee, 1e-3);
    let after: Vec<Vec<f64>> = trainee.parameters().map(|p| values(&p.value)).collect();
    assert!(before == after, "the weights moved");
    assert!(before.iter().flatten().all(|x| x.is_finite()));
    let reports = Step::reports(&[&good, &bad, &after_it], &objective);
    let there: Vec<bool> = reports.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, false]);

    let mut ruined = Trainee::new(decoder("llama_gqa", &device));
    let norm = ruined.parameters_mut().find(|p| p.name == name).unwrap();
    norm.value = norm.value.clone() * f32::INFINITY;
    let error = train_step(
        &mut ruined,
        &mut adamw(),
        &objective,
        &batch(80),
        config,
        1e-3,
    );
    let Err(StepError::NotFinite { what }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(what, "the weight model.norm.weight");
}

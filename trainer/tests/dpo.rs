//! Preference training against TRL: a whole optimizer step, gradients however the step is cut, finite differences.
//! `tests/golden/make_dpo.py` made the numbers.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use datasets::batch::{Batch, PlacedPiece};
use datasets::packing::Piece;
use model::build::Placement;
use model::decoder::Decoder;
use model::linear::lora::LoraConfig;
use model::load::load_decoder;
use model::random::normal_values;
use model::weights::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;
use trainer::loss::preference::PreferenceLoss;
use trainer::objective::dpo::{Dpo, answer_log_probs};
use trainer::objective::{Objective, Trainee};
use trainer::optim::adamw::{AdamW, AdamWConfig};
use trainer::step::{StepConfig, accumulate_gradients, train_step};

const ROW: usize = 48;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/dpo.json")).unwrap()
}

fn decoder(name: &str, dtype: DType) -> Decoder {
    let placement = Placement {
        device: Device::flex(),
        weights: dtype,
        compute: dtype,
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    load_decoder(
        &Checkpoint::open(&directory.join(name)).unwrap(),
        &placement,
    )
    .unwrap()
}

fn values(tensor: &Tensor<2>) -> Vec<f64> {
    let data = tensor.clone().cast(DType::F64).into_data();
    data.try_to_vec().unwrap()
}

fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (distance / norm.max(1e-30)).sqrt()
}

/// The golden pairs in three rows: two, one and two of them.
fn batch() -> Batch {
    let mut batch = Batch::padding(3, ROW, 0);
    let pairs = golden()["pairs"].as_array().unwrap().clone();
    let (mut row, mut at) = (0, 0);
    for (number, pair) in pairs.iter().enumerate() {
        if number == 2 || number == 3 {
            (row, at) = (row + 1, 0);
        }
        for (side, name) in ["chosen", "rejected"].into_iter().enumerate() {
            let ids =
                |key: &str| -> Vec<u32> { serde_json::from_value(pair[key].clone()).unwrap() };
            let prompt = ids("prompt").len();
            let all = [ids("prompt"), ids(name)].concat();
            let first = row * ROW + at;
            for (t, &id) in all.iter().enumerate() {
                let cell = first + t;
                batch.ids[cell] = id;
                batch.positions[cell] = t as u32;
                batch.segments[cell] = 2 * number as u32 + side as u32 + 1;
                if let Some(&next) = all.get(t + 1) {
                    batch.targets[cell] = next;
                    batch.supervised[cell] = t + 1 >= prompt;
                }
            }
            let piece = Piece {
                sample: 2 * number as u32 + side as u32,
                start: 0,
                length: all.len() as u32,
            };
            batch.pieces.push(PlacedPiece { at: first, piece });
            at += all.len();
            assert!(at <= ROW);
        }
    }
    batch
}

fn objective(loss: Value) -> Objective<'static> {
    let reference: Vec<[f64; 2]> = serde_json::from_value(golden()["reference"].clone()).unwrap();
    Objective::Dpo(Dpo {
        loss: serde_json::from_value::<PreferenceLoss>(loss).unwrap(),
        reference: reference.concat(),
        heldout_reference: Vec::new(),
    })
}

fn cut(micro_rows: usize) -> StepConfig {
    StepConfig {
        micro_rows,
        checkpoint_blocks: micro_rows == 2,
        clip_norm: 1.0,
    }
}

fn every_loss() -> [Value; 4] {
    [
        serde_json::json!({ "sigmoid": { "label_smoothing": 0.1 } }),
        serde_json::json!({ "ipo": { "beta": 0.2 } }),
        serde_json::json!({ "hinge": {} }),
        serde_json::json!({ "sigmoid": { "beta": 0.01, "reference_free": true } }),
    ]
}

#[test]
fn references_equal_those_of_transformers() {
    let expected: Vec<[f64; 2]> = serde_json::from_value(golden()["reference"].clone()).unwrap();
    let found = answer_log_probs(&decoder("llama_tied", DType::F32), &batch());
    let difference = relative(&found, &expected.concat());
    assert!(difference <= 1e-6, "{difference:e}");
}

#[test]
fn the_first_step_equals_trl_s() {
    let golden = golden();
    let bytes = include_bytes!("golden/dpo_step.safetensors");
    let after = SafeTensors::deserialize(bytes).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let optimizer = &golden["optimizer"];
    for step in golden["steps"].as_array().unwrap() {
        for rows in [3, 1] {
            let mut adamw = AdamW::new(AdamWConfig {
                lr: number(&optimizer["lr"]),
                betas: [
                    number(&optimizer["betas"][0]),
                    number(&optimizer["betas"][1]),
                ],
                eps: number(&optimizer["eps"]),
                weight_decay: 0.0,
            });
            let mut trainee = Trainee::new(decoder("llama_gqa", DType::F32));
            let objective = objective(step["loss"].clone());
            let lr = number(&optimizer["lr"]);
            let report = train_step(
                &mut trainee,
                &mut adamw,
                &objective,
                &batch(),
                cut(rows),
                lr,
            )
            .unwrap();
            let close = |found: f64, expected: &Value| {
                let expected = number(expected);
                (found - expected).abs() <= 1e-5 * (1.0 + expected.abs())
            };
            let pairs = report.pairs.unwrap();
            assert_eq!(pairs.pairs, 5);
            for (found, key) in [
                (report.loss, "value"),
                (report.gradient_norm, "gradient_norm"),
                (pairs.margin, "margin"),
                (pairs.accuracy, "accuracy"),
                (pairs.chosen_log_prob, "chosen_log_prob"),
            ] {
                assert!(close(found, &step[key]), "{key}: {report:?} {step}");
            }
            let name = step["loss"].as_object().unwrap().keys().next().unwrap();
            let mut worst = 0.0_f64;
            for parameter in trainee.parameters() {
                let expected = after.tensor(&format!("{name}.{}", parameter.name)).unwrap();
                let expected: Vec<f64> = (expected.data().chunks(4))
                    .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                    .collect();
                worst = worst.max(relative(&values(&parameter.value), &expected));
            }
            println!("{name}, {rows} rows at a time: weights differ by {worst:e}");
            assert!(worst <= 1e-5, "{name}: {worst:e}");
        }
    }
}

#[test]
fn any_cut_into_microbatches_gives_the_same_gradients() {
    for loss in every_loss() {
        let objective = objective(loss.clone());
        let mut whole: Option<Vec<f64>> = None;
        for rows in [3, 2, 1] {
            let mut trainee = Trainee::new(decoder("llama_gqa", DType::F32));
            accumulate_gradients(&mut trainee, &objective, &batch(), cut(rows)).unwrap();
            let gradients = trainee.parameters().filter_map(|p| p.gradient.as_ref());
            let found: Vec<f64> = gradients.flat_map(values).collect();
            let difference = relative(&found, whole.get_or_insert(found.clone()));
            assert!(difference <= 1e-5, "{loss}, {rows}: {difference:e}");
        }
    }
}

/// An adapter whose second matrix is no longer zero; the head is frozen.
fn adapted() -> Trainee {
    let mut decoder = decoder("llama_gqa", DType::F64);
    let config = LoraConfig {
        rank: 2,
        alpha: 3.0,
        ..LoraConfig::default()
    };
    decoder.add_lora("default", &config, 3).unwrap();
    for lora in decoder.linears_mut().filter_map(|l| l.adapter_mut()) {
        let shape = lora.b.value.dims();
        let data = normal_values(shape[0] * shape[1], 9, &lora.b.name, 0.2);
        let data = TensorData::new(data, shape);
        let value = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
        lora.b.value = value.cast(DType::F64);
    }
    Trainee::new(decoder)
}

#[test]
fn gradients_equal_finite_differences_with_the_head_trained_and_frozen() {
    let whole = || Trainee::new(decoder("llama_gqa", DType::F64));
    let starts: [&dyn Fn() -> Trainee; 2] = [&whole, &adapted];
    for loss in every_loss() {
        let objective = objective(loss.clone());
        for start in starts {
            let mut trainee = start();
            accumulate_gradients(&mut trainee, &objective, &batch(), cut(3)).unwrap();
            let analytic: Vec<(String, Vec<f64>)> = (trainee.parameters())
                .filter_map(|p| Some((p.name.clone(), values(p.gradient.as_ref()?))))
                .collect();
            assert!(analytic.len() >= 14);
            let value = |name: &str, element: usize, delta: f64| {
                let mut moved = start();
                let parameter = moved.parameters_mut().find(|p| p.name == name).unwrap();
                let mut changed = values(&parameter.value);
                changed[element] += delta;
                let data = TensorData::new(changed, parameter.value.dims());
                parameter.value = Tensor::from_data(data, (&Device::flex(), DType::F64));
                let sums = accumulate_gradients(&mut moved, &objective, &batch(), cut(3)).unwrap();
                objective.total(&sums.read()) / 5.0
            };
            for (at, (name, gradient)) in analytic.iter().enumerate().step_by(3) {
                let element = (at * 7919) % gradient.len();
                let step = 1e-5;
                let slope =
                    (value(name, element, step) - value(name, element, -step)) / (2.0 * step);
                let error = (slope - gradient[element]).abs();
                assert!(
                    error <= 1e-7 * (1.0 + slope.abs()),
                    "{loss}: {name}[{element}]: {slope} {}",
                    gradient[element]
                );
            }
        }
    }
}

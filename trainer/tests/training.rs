//! The trainer against PyTorch: the linear loss, gradients under accumulation, three steps of AdamW.
//! `tests/golden/make_losses.py` and `make_checkpoints.py` made the numbers.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use datasets::batch::Batch;
use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::Decoder;
use model::linear::Weight;
use model::linear::lora::{DropoutDraw, LoraConfig};
use model::load::load_decoder;
use model::parameter::Parameter;
use model::random::normal_values;
use model::weights::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;
use teacher::error::TeacherError;
use teacher::signal::Signal;
use teacher::teacher::{Teacher, Vocabulary};
use trainer::loss::linear_loss::{TeacherStates, linear_loss};
use trainer::loss::{Labels, LossConfig, LossEntries, formula};
use trainer::objective::{Guide, Objective, TokenObjective, Trainee};
use trainer::optim::adamw::{AdamW, AdamWConfig};
use trainer::optim::clip::square_sum;
use trainer::step::{StepConfig, accumulate_gradients, train_step};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(path)).unwrap()).unwrap()
}

fn losses(list: Value) -> LossEntries {
    let configs: Vec<LossConfig> = serde_json::from_value(list).unwrap();
    LossEntries::new(&configs).unwrap()
}

fn matrix(value: &Value) -> Tensor<2> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    let shape = [rows.len(), rows[0].len()];
    let data = TensorData::new(rows.concat(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn values(tensor: &Tensor<2>) -> Vec<f64> {
    tensor
        .clone()
        .cast(DType::F64)
        .into_data()
        .try_to_vec()
        .unwrap()
}

fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let distance: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    (distance / norm.max(1e-30)).sqrt()
}

fn weight(value: Tensor<2>) -> Weight {
    Weight::Dense(Parameter::new("head", value.dims().to_vec(), value))
}

#[test]
fn the_linear_loss_equals_pytorch() {
    let case = &json("losses.json")["linear_loss"];
    let targets: Vec<u32> = serde_json::from_value(case["targets"].clone()).unwrap();
    let supervised: Vec<bool> = serde_json::from_value(case["mask"].clone()).unwrap();
    let entries = losses(serde_json::json!([
        { "forward_kl": { "weight": 0.9, "temperature": 2.0 } },
        { "cross_entropy": { "weight": 0.1 } },
    ]));
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let at = |key: &str| matrix(&case[key]).cast(dtype);
        let head = at("head");
        let vocabulary = head.dims()[0];
        let mut head = weight(head);
        let teacher = TeacherStates {
            hidden: at("teacher_hidden"),
            head: weight(at("teacher_head")),
        };
        let labels = Labels {
            targets: &targets,
            supervised: &supervised,
        };
        let loss = linear_loss(
            &entries,
            &at("hidden"),
            &mut head,
            Some((&teacher).into()),
            labels,
            vocabulary,
            1.0,
        );
        let loss = loss.unwrap();
        let expected = case["value"].as_f64().unwrap();
        let total = entries.total(&loss.values.read());
        assert!(
            (total - expected).abs() <= tolerance * expected,
            "{total} {expected}"
        );
        let d_hidden = values(&matrix(&case["hidden_gradient"]));
        assert!(relative(&values(&loss.d_hidden), &d_hidden) <= tolerance);
        let d_head = values(&matrix(&case["head_gradient"]));
        assert!(
            relative(
                &values(&head.parameter().unwrap().gradient.clone().unwrap()),
                &d_head
            ) <= tolerance
        );
    }
}

#[test]
fn tensor_formulas_equal_the_kernel() {
    let case = &json("losses.json")["linear_loss"];
    let logits = matrix(&case["hidden"]).matmul(matrix(&case["head"]).transpose());
    let teacher = matrix(&case["teacher_hidden"]).matmul(matrix(&case["teacher_head"]).transpose());
    let [rows, columns] = logits.dims();
    let targets: Vec<u32> = (0..rows as u32).collect();
    let labels = Labels {
        targets: &targets,
        supervised: &vec![true; rows],
    };
    let valid = columns - 2;
    let vocabulary = trainer::loss::Vocabulary {
        student: columns,
        teacher: columns,
        valid,
    };
    let all = serde_json::json!([
        { "forward_kl": { "temperature": 2.0 } },
        { "reverse_kl": { "weight": 0.5 } },
        { "jsd": { "beta": 0.3, "temperature": 3.0 } },
        { "jsd": { "beta": 1.0 } },
        { "skew_kl": { "temperature": 1.5 } },
        { "skew_reverse_kl": {} },
        { "tvd": { "temperature": 2.0 } },
        { "cross_entropy": { "weight": 0.1 } },
    ]);
    let entries = losses(all);
    let mut by_kernel = vec![0.0; entries.count()];
    let mut gradient = values(&logits);
    let teacher_logits = values(&teacher);
    trainer::loss::loss_rows::<f64>(
        &entries,
        vocabulary,
        &mut gradient,
        Some(&teacher_logits),
        labels,
        0.25,
        &mut by_kernel,
    )
    .unwrap();
    let mut by_formula = vec![0.0; entries.count()];
    let d_logits = formula::chunk_loss(
        &entries,
        vocabulary,
        logits,
        Some(teacher),
        labels,
        0.25,
        &mut by_formula,
    );
    let difference = relative(&values(&d_logits.unwrap()), &gradient);
    // Burn hands scalars such as the temperature to f64 tensors with f32 precision in places.
    assert!(difference <= 1e-7, "{difference:e}");
    let difference = relative(&by_formula, &by_kernel);
    assert!(difference <= 1e-6, "{by_formula:?} {by_kernel:?}");
}

fn decoder(name: &str, dtype: DType) -> Decoder {
    let placement = Placement {
        device: Device::flex(),
        weights: dtype,
        compute: dtype,
    };
    let checkpoint = Checkpoint::open(&golden("checkpoints").join(name)).unwrap();
    load_decoder(&checkpoint, &placement).unwrap()
}

/// A decoder as its own teacher, without a tokenizer.
struct Frozen(Decoder);

impl Teacher for Frozen {
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError> {
        let (hidden, layers) = self.0.hidden_and_layers(batch, layers);
        Ok(Signal {
            hidden,
            head: self.0.head().clone(),
            layers,
        })
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        unreachable!("the trainer does not ask for it")
    }
}

/// Eight rows of 12 tokens, most of them supervised, and not the same number in each row.
fn batch(vocabulary: u32) -> Batch {
    let mut batch = Batch::padding(8, 12, 0);
    for i in 0..batch.ids.len() {
        let (row, column) = (i / 12, i % 12);
        let id = |i: usize| (i as u32 * 37 + 11) % vocabulary;
        batch.ids[i] = id(i);
        batch.targets[i] = id(i + 1);
        batch.positions[i] = column as u32;
        batch.segments[i] = 1;
        batch.supervised[i] = column < 11 && column >= row;
    }
    batch
}

fn gradients(trainee: &Trainee) -> Vec<f64> {
    let gradients = trainee.parameters().filter_map(|p| p.gradient.as_ref());
    gradients.flat_map(values).collect()
}

#[test]
fn any_cut_into_microbatches_gives_the_same_gradients() {
    for list in [
        serde_json::json!([{ "cross_entropy": {} }]),
        serde_json::json!([
            { "forward_kl": { "weight": 0.7, "temperature": 2.0 } },
            { "cross_entropy": { "weight": 0.2 } },
            { "hidden_mse": { "weight": 0.5, "layers": [[1, 1], [2, 2]] } },
        ]),
    ] {
        let teacher = Frozen(decoder("llama_tied", DType::F32));
        let objective = Objective::Tokens(TokenObjective {
            entries: losses(list),
            teacher: Some(Guide::Model(&teacher)),
            valid: 80,
        });
        let mut whole: Option<Vec<f64>> = None;
        for micro_rows in [8, 4, 1] {
            for checkpoint_blocks in [false, true] {
                let mut trainee = Trainee::new(decoder("llama_gqa", DType::F32));
                let config = StepConfig {
                    micro_rows,
                    checkpoint_blocks,
                    clip_norm: 1.0,
                };
                accumulate_gradients(&mut trainee, &objective, &batch(80), config).unwrap();
                let found = gradients(&trainee);
                let difference = relative(&found, whole.get_or_insert(found.clone()));
                println!("rows of a microbatch {micro_rows}: {difference:e}");
                assert!(difference <= 1e-5);
            }
        }
    }
}

#[test]
fn the_whole_gradient_equals_finite_differences() {
    let teacher = Frozen(decoder("llama_tied", DType::F64));
    let objective = Objective::Tokens(TokenObjective {
        entries: losses(serde_json::json!([
            { "jsd": { "beta": 0.3, "temperature": 2.0 } },
            { "cross_entropy": { "weight": 0.2 } },
        ])),
        teacher: Some(Guide::Model(&teacher)),
        valid: 80,
    });
    let config = StepConfig {
        micro_rows: 8,
        checkpoint_blocks: true,
        clip_norm: 1.0,
    };
    for name in ["qwen3", "llama_bias", "qwen2_window"] {
        let student = decoder(name, DType::F64);
        let batch = batch(80);
        let count = batch.supervised_count() as f64;
        let mut trainee = Trainee::new(student.clone());
        accumulate_gradients(&mut trainee, &objective, &batch, config).unwrap();
        let analytic: Vec<(String, Vec<f64>)> = trainee
            .parameters()
            .map(|p| (p.name.clone(), values(p.gradient.as_ref().expect(&p.name))))
            .collect();
        let loss = |name: &str, element: usize, delta: f64| {
            let mut moved = Trainee::new(student.clone());
            let parameter = moved.parameters_mut().find(|p| p.name == name).unwrap();
            let mut changed = values(&parameter.value);
            changed[element] += delta;
            let data = TensorData::new(changed, parameter.value.dims());
            parameter.value = Tensor::from_data(data, (&Device::flex(), DType::F64));
            let sums = accumulate_gradients(&mut moved, &objective, &batch, config).unwrap();
            objective.total(&sums.read()) / count
        };
        for (at, (name, gradient)) in analytic.iter().enumerate() {
            let element = (at * 7919) % gradient.len();
            let step = 1e-5;
            let slope = (loss(name, element, step) - loss(name, element, -step)) / (2.0 * step);
            let error = (slope - gradient[element]).abs();
            assert!(
                error <= 1e-7 * (1.0 + slope.abs()),
                "{name}[{element}]: {slope} {}",
                gradient[element]
            );
        }
    }
}

#[test]
fn three_steps_of_adamw_equal_pytorch() {
    let record = json("checkpoints/llama_gqa/training.json");
    let number = |value: &Value| value.as_f64().unwrap();
    let optimizer = &record["optimizer"];
    let mut adamw = AdamW::new(AdamWConfig {
        lr: number(&optimizer["lr"]),
        betas: [number(&optimizer["beta1"]), number(&optimizer["beta2"])],
        eps: number(&optimizer["eps"]),
        weight_decay: number(&optimizer["weight_decay"]),
    });
    let bytes = std::fs::read(golden("checkpoints/llama_gqa/batch.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| -> Vec<u32> {
        let data = file.tensor(name).unwrap().data();
        data.chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    };
    let mut batch = Batch::padding(2, 24, 0);
    batch.ids = integers("input_ids");
    batch.targets = integers("targets");
    batch.supervised = file
        .tensor("mask")
        .unwrap()
        .data()
        .iter()
        .map(|&m| m == 1)
        .collect();
    batch.positions = (0..48).map(|i| i % 24).collect();
    batch.segments = vec![1; 48];
    let objective = Objective::Tokens(TokenObjective {
        entries: losses(serde_json::json!([{ "cross_entropy": {} }])),
        teacher: None,
        valid: 80,
    });
    let config = StepConfig {
        micro_rows: 1,
        checkpoint_blocks: false,
        clip_norm: number(&optimizer["clip"]),
    };
    let mut trainee = Trainee::new(decoder("llama_gqa", DType::F32));
    for step in record["steps"].as_array().unwrap() {
        let report = train_step(
            &mut trainee,
            &mut adamw,
            &objective,
            &batch,
            config,
            number(&step["lr"]),
        )
        .unwrap();
        let close =
            |got: f64, expected: &Value| (got - number(expected)).abs() <= 2e-5 * number(expected);
        assert!(close(report.loss, &step["loss"]), "{report:?} {step}");
        assert!(
            close(report.gradient_norm, &step["grad_norm"]),
            "{report:?} {step}"
        );
    }
    let bytes = std::fs::read(golden(
        "checkpoints/llama_gqa/after_three_steps.safetensors",
    ))
    .unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for parameter in trainee.parameters() {
        let expected: Vec<f64> = file
            .tensor(&parameter.name)
            .unwrap()
            .data()
            .chunks(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect();
        let difference = relative(&values(&parameter.value), &expected);
        assert!(difference <= 1e-4, "{}: {difference:e}", parameter.name);
        assert!(square_sum(&parameter.value).is_finite());
    }
}

#[test]
fn padding_rows_of_the_student_learn_to_be_improbable() {
    let case = &json("losses.json")["linear_loss"];
    let teacher = TeacherStates {
        hidden: matrix(&case["teacher_hidden"]),
        head: weight(matrix(&case["teacher_head"])),
    };
    let (targets, supervised) = (vec![0; 7], vec![true; 7]);
    let labels = Labels {
        targets: &targets,
        supervised: &supervised,
    };
    let shared = 30;
    let head_gradient = |list: Value| {
        let head = matrix(&case["head"]);
        let mut head = weight(head);
        let hidden = matrix(&case["hidden"]);
        let entries = losses(list);
        let loss = linear_loss(
            &entries,
            &hidden,
            &mut head,
            Some((&teacher).into()),
            labels,
            shared,
            1.0,
        );
        assert!(loss.unwrap().values.read()[0].is_finite());
        let gradient = values(&head.parameter().unwrap().gradient.clone().unwrap());
        gradient[shared * 16..].iter().map(|x| x.abs()).sum::<f64>()
    };
    for name in ["forward_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd"] {
        assert!(
            head_gradient(serde_json::json!([{ name: {} }])) > 1e-3,
            "{name}"
        );
    }
    // Where the teacher has 0 a reverse KL is infinite: the columns are left out on both sides.
    assert_eq!(
        head_gradient(serde_json::json!([{ "reverse_kl": {} }])),
        0.0
    );
}

#[test]
fn a_head_that_no_loss_uses_gets_no_gradient() {
    let teacher = Frozen(decoder("llama_tied", DType::F32));
    let objective = Objective::Tokens(TokenObjective {
        entries: losses(serde_json::json!([{ "hidden_cosine": { "layers": [[2, 2]] } }])),
        teacher: Some(Guide::Model(&teacher)),
        valid: 80,
    });
    let config = StepConfig {
        micro_rows: 8,
        checkpoint_blocks: false,
        clip_norm: 1.0,
    };
    let mut trainee = Trainee::new(decoder("llama_gqa", DType::F32));
    accumulate_gradients(&mut trainee, &objective, &batch(80), config).unwrap();
    assert!(
        trainee
            .decoder
            .head()
            .parameter()
            .unwrap()
            .gradient
            .is_none()
    );
    assert!(
        trainee
            .decoder
            .embed_tokens
            .parameter()
            .unwrap()
            .gradient
            .is_some()
    );
}

/// An adapter of rank 2 whose second matrix is no longer zero.
fn adapted(name: &str, dtype: DType, dropout: f64) -> Trainee {
    let mut decoder = decoder(name, dtype);
    let config = LoraConfig {
        rank: 2,
        alpha: 3.0,
        dropout,
        targets: vec!["layers.1.*".into()],
        ..LoraConfig::default()
    };
    decoder.add_lora("default", &config, 3).unwrap();
    for linear in decoder.linears_mut() {
        if let Some(lora) = linear.adapter_mut() {
            let other = lora.b.value.dims();
            let data = normal_values(other[0] * other[1], 9, &lora.b.name, 0.2);
            let data = TensorData::new(data, other);
            lora.b.value = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32)).cast(dtype);
        }
    }
    let mut trainee = Trainee::new(decoder);
    trainee.dropout = DropoutDraw {
        seed: 4,
        step: 5,
        first_token: 0,
    };
    trainee
}

#[test]
fn an_adapter_s_gradient_equals_finite_differences_however_the_step_is_cut() {
    let objective = Objective::Tokens(TokenObjective {
        entries: losses(serde_json::json!([{ "cross_entropy": {} }])),
        teacher: None,
        valid: 80,
    });
    let batch = batch(80);
    let count = batch.supervised_count() as f64;
    let cut = |micro_rows| StepConfig {
        micro_rows,
        checkpoint_blocks: micro_rows != 8,
        clip_norm: 1.0,
    };
    for dropout in [0.0, 0.3] {
        let mut trainee = adapted("llama_gqa", DType::F64, dropout);
        accumulate_gradients(&mut trainee, &objective, &batch, cut(8)).unwrap();
        let whole = gradients(&trainee);
        for parameter in trainee.parameters() {
            let is_adapter =
                parameter.name.contains("layers.1.") && parameter.name.contains("lora");
            assert_eq!(
                parameter.gradient.is_some(),
                is_adapter,
                "{}",
                parameter.name
            );
        }
        let mut in_parts = adapted("llama_gqa", DType::F64, dropout);
        accumulate_gradients(&mut in_parts, &objective, &batch, cut(2)).unwrap();
        let difference = relative(&gradients(&in_parts), &whole);
        assert!(difference <= 1e-12, "{difference:e}");

        let analytic: Vec<(String, Vec<f64>)> = (trainee.parameters())
            .filter_map(|p| Some((p.name.clone(), values(p.gradient.as_ref()?))))
            .collect();
        assert_eq!(analytic.len(), 14);
        let loss = |name: &str, element: usize, delta: f64| {
            let mut moved = adapted("llama_gqa", DType::F64, dropout);
            let parameter = moved.parameters_mut().find(|p| p.name == name).unwrap();
            let mut changed = values(&parameter.value);
            changed[element] += delta;
            let data = TensorData::new(changed, parameter.value.dims());
            parameter.value = Tensor::from_data(data, (&Device::flex(), DType::F64));
            let sums = accumulate_gradients(&mut moved, &objective, &batch, cut(8)).unwrap();
            objective.total(&sums.read()) / count
        };
        for (at, (name, gradient)) in analytic.iter().enumerate() {
            let element = (at * 7919) % gradient.len();
            let step = 1e-5;
            let slope = (loss(name, element, step) - loss(name, element, -step)) / (2.0 * step);
            let error = (slope - gradient[element]).abs();
            assert!(
                error <= 1e-8 * (1.0 + slope.abs()),
                "{name}[{element}]: {slope} {}",
                gradient[element]
            );
        }
    }
}

//! What is written beside a quantised model is read back, and what is broken is told.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::checkpoint::Checkpoint;
use super::dtype::WeightDtype;
use super::quantization::{QUANTIZATION_FILE, write_quantization};
use super::staged_directory::StagedDirectory;
use super::test_files::{tiny_config, tiny_directory};
use crate::build::Placement;
use crate::config::Architecture;
use crate::linear::{ActivationQuantization, ActivationScheme, Codes, QuantizedLinear};
use crate::load::load_frozen_decoder;
use crate::quant::integer::{IntegerConfig, IntegerMatrix};
use crate::quant::nf4::Nf4;
use crate::random::normal_values;

const Q: &str = "model.layers.0.self_attn.q_proj";
const GATE: &str = "model.layers.1.mlp.gate_proj";
const UP: &str = "model.layers.1.mlp.up_proj";
const DOWN: &str = "model.layers.1.mlp.down_proj";

fn layers() -> BTreeMap<String, QuantizedLinear> {
    let values = |count| normal_values(count, 3, "values", 0.1);
    let config = IntegerConfig {
        bits: 4,
        group_size: Some(16),
        symmetric: false,
    };
    let integers = |shape: [usize; 2]| {
        IntegerMatrix::round_to_nearest(&values(shape[0] * shape[1]), shape, &config).unwrap()
    };
    let per_token = ActivationQuantization::per_token(ActivationScheme::ZeroPoint);
    let fixed = ActivationQuantization {
        range: Some([-1.5, 2.0]),
        ..ActivationQuantization::per_token(ActivationScheme::Absmax)
    };
    let mut reordered = integers([64, 32]);
    reordered.group_of_column = Some((0..32).map(|column| column % 2).collect());
    let nf4 = Nf4::quantize(&values(32 * 64), 64).unwrap();
    let mixed = QuantizedLinear::llm_int8(values(64 * 32), [64, 32], vec![3, 30]).unwrap();
    [
        (
            Q,
            QuantizedLinear::new(Codes::Integer(integers([32, 32])), Some(per_token)),
        ),
        (GATE, QuantizedLinear::new(Codes::Integer(reordered), None)),
        (UP, mixed),
        (DOWN, QuantizedLinear::new(Codes::Nf4(nf4), Some(fixed))),
    ]
    .map(|(module, layer)| (module.to_owned(), layer))
    .into()
}

/// A model with the files beside it, in `model` below.
fn quantized(layers: &BTreeMap<String, QuantizedLinear>) -> TempDir {
    let place = tiny_directory(
        &tiny_config(Architecture::Llama),
        WeightDtype::F32,
        u64::MAX,
    );
    let staged = StagedDirectory::new(&place.path().join("beside")).unwrap();
    write_quantization(&staged, &json!({ "kind": "mixed" }), layers).unwrap();
    for file in fs::read_dir(staged.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(
            file.path(),
            place.path().join("model").join(file.file_name()),
        )
        .unwrap();
    }
    place
}

#[test]
fn what_is_written_is_read_back() {
    let layers = layers();
    let place = quantized(&layers);
    let checkpoint = Checkpoint::open(&place.path().join("model")).unwrap();
    let found = checkpoint.quantization().unwrap();
    assert_eq!(found.method(), &json!({ "kind": "mixed" }));
    for (module, layer) in &layers {
        assert_eq!(
            found.activations(module),
            layer.activations.as_ref(),
            "{module}"
        );
        let expected = match &layer.codes {
            Codes::Integer(matrix) if layer.outliers.is_empty() => Some(matrix.clone()),
            _ => None,
        };
        assert_eq!(found.integers(module).unwrap(), expected, "{module}");
    }
    assert!(found.activations("model.layers.0.mlp.up_proj").is_none());
    let decoder = load_frozen_decoder(&checkpoint, &Placement::cpu()).unwrap();
    for linear in decoder.linears() {
        let expected = layers.get(linear.module());
        let expected = expected.and_then(|layer| layer.activations.clone());
        assert_eq!(linear.activations, expected, "{}", linear.module());
    }
}

type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn what_is_broken_is_told_by_file_and_key() {
    let place = quantized(&layers());
    let path = place.path().join("model").join(QUANTIZATION_FILE);
    let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let error = |change: Change| {
        let mut json = whole.clone();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        Checkpoint::open(&place.path().join("model"))
            .err()
            .map_or_else(String::new, |error| error.to_string())
    };
    let cases: [(Change, &[&str]); 11] = [
        (
            &|json| *json = json!([]),
            &["quantization.json", "JSON object"],
        ),
        (
            &|json| json["format"] = json!(2),
            &["quantization.json", "`format` is 2, expected 1"],
        ),
        (
            &|json| drop(json.as_object_mut().unwrap().remove("layers")),
            &["`layers` is absent"],
        ),
        (
            &|json| json["layer"] = json!({}),
            &["unknown key `layer`", "method and layers"],
        ),
        (
            &|json| drop(json["layers"].as_object_mut().unwrap().remove(Q)),
            &["quantization.safetensors", Q, "is of no layer"],
        ),
        (
            &|json| json["layers"]["lm_head"] = json!({}),
            &["layers.lm_head", "linear layer"],
        ),
        (
            &|json| json["layers"][Q]["code"] = json!({}),
            &[Q, "unknown field `code`"],
        ),
        (
            &|json| json["layers"][Q]["codes"]["bits"] = json!(9),
            &[Q, "codes.bits` is 9, expected 2 to 8"],
        ),
        (
            &|json| json["layers"][Q]["codes"]["group_size"] = json!(24),
            &["group_size` is 24", "32 columns"],
        ),
        (
            &|json| json["layers"][Q]["codes"]["group_size"] = json!(8),
            &[
                "quantization.safetensors",
                "scales` has shape [32, 2], expected [32, 4]",
            ],
        ),
        (
            &|json| json["layers"][Q]["activations"]["range"] = json!("calibration"),
            &[
                "quantization.safetensors",
                "q_proj.activation_range` is missing",
            ],
        ),
    ];
    for (change, parts) in cases {
        let message = error(change);
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{parts:?}: {message}"
        );
    }
    assert_eq!(error(&|_| {}), "");
    fs::remove_file(place.path().join("model/quantization.safetensors")).unwrap();
    assert!(error(&|_| {}).contains("quantization.safetensors"));
}

#[test]
fn codes_without_a_description_are_no_model() {
    let place = quantized(&layers());
    fs::remove_file(place.path().join("model").join(QUANTIZATION_FILE)).unwrap();
    let error = Checkpoint::open(&place.path().join("model")).unwrap_err();
    assert!(error.to_string().contains(QUANTIZATION_FILE), "{error}");
}

#[test]
fn codes_that_cannot_be_are_told() {
    let mut layers = layers();
    layers.retain(|module, _| module == Q || module == UP);
    let message = |layers: &BTreeMap<String, QuantizedLinear>| {
        let place = quantized(layers);
        let checkpoint = Checkpoint::open(&place.path().join("model"));
        let read = checkpoint.and_then(|found| found.quantization().unwrap().integers(Q));
        read.unwrap_err().to_string()
    };
    let mut wrong = layers.clone();
    if let Codes::Integer(matrix) = &mut wrong.get_mut(Q).unwrap().codes {
        matrix.codes[7] = 16;
    }
    assert!(message(&wrong).contains("q_proj.codes`: 16 is no code of 4 bits"));
    let activations = layers.get_mut(UP).unwrap().activations.as_mut().unwrap();
    activations.outliers = vec![30, 3];
    assert!(message(&layers).contains("rising order"));
    let activations = layers.get_mut(UP).unwrap().activations.as_mut().unwrap();
    activations.outliers = vec![3, 32];
    assert!(message(&layers).contains("up_proj.outlier_columns`: 32 is not below 32"));
}

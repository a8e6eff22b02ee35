//! Stage `quantize`: every method on tiny models, its table, its files, and input that it refuses.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::models::random;

const HEAD: &str = r#"
seed = 3
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
"#;

const CALIBRATION: &str =
    r#"calibration = { data = "train", sequences = 6, sequence_length = 32 }"#;

/// Name, method, whether it takes calibration.
const METHODS: [(&str, &str, bool); 13] = [
    ("plain", r#"{ kind = "absmax_int8" }"#, false),
    (
        "absmax_dynamic",
        r#"{ kind = "absmax_int8", activations = "dynamic" }"#,
        false,
    ),
    (
        "absmax_static",
        r#"{ kind = "absmax_int8", activations = "static" }"#,
        true,
    ),
    (
        "zero_plain",
        r#"{ kind = "zero_point_int8", activations = "none" }"#,
        false,
    ),
    (
        "zero_dynamic",
        r#"{ kind = "zero_point_int8", activations = "dynamic" }"#,
        false,
    ),
    (
        "zero_static",
        r#"{ kind = "zero_point_int8", activations = "static" }"#,
        true,
    ),
    ("llm", r#"{ kind = "llm_int8", threshold = 2.5 }"#, true),
    ("four", r#""nf4""#, false),
    (
        "rounded",
        r#"{ kind = "round_to_nearest", bits = 4, group_size = 32 }"#,
        false,
    ),
    (
        "gptq",
        r#"{ kind = "gptq", bits = 4, group_size = 32 }"#,
        true,
    ),
    (
        "gptq_ordered",
        r#"{ kind = "gptq", bits = 3, group_size = 64, symmetric = true, damping = 0.05, activation_order = true }"#,
        true,
    ),
    (
        "awq",
        r#"{ kind = "awq", bits = 4, group_size = 32, scaling = { kind = "search", grid = 4 } }"#,
        true,
    ),
    (
        "awq_salient",
        r#"{ kind = "awq", bits = 3, group_size = 32, scaling = { kind = "salient", share = 0.02, scale = 2.0 } }"#,
        true,
    ),
];

fn stage(model: &str, method: &str, calibration: &str, name: &str) -> String {
    format!(
        "[[stage]]\nkind = \"quantize\"\nmodel = \"{model}\"\nmethod = {method}\n{calibration}\nheldout = \"heldout\"\nwindow = 64\nas = \"{name}\"\n"
    )
}

/// The directory of the stage that makes `name`.
fn made(home: &Home, name: &str) -> PathBuf {
    let lineage = read_json(&home.path("runs/r/lineage.json"));
    let stages = lineage["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["as"] == name).unwrap();
    (home.path("runs/r")).join(stage["directory"].as_str().unwrap())
}

fn tables(text: &str) -> &str {
    text.split("\nstages ").next().unwrap()
}

#[test]
fn every_method_leaves_a_model_that_scores_as_the_table_says() {
    let home = Home::new();
    let model = random("wide", 64, 80, "tiny", 1);
    let stages = METHODS.map(|(name, method, calibrated)| {
        let calibration = if calibrated { CALIBRATION } else { "" };
        stage("wide", method, calibration, name)
    });
    let names = METHODS.map(|(name, ..)| name);
    let eval = format!(
        "[[stage]]\nkind = \"eval\"\ntask = \"perplexity\"\nmodels = {}\ndata = \"heldout\"\nwindow = 64\n",
        json!(names)
    );
    home.write(RECIPE, [HEAD, &model, &stages.concat(), &eval].concat());
    let first = home.run();
    assert_success(&first);
    let text = stdout(&first);
    println!("{text}");
    let table = text.split("quantised linear layers\n").nth(1).unwrap();
    for (line, name) in table.lines().skip(1).zip(names) {
        assert!(line.starts_with(&format!("{name} ")), "{line}");
    }
    assert!(
        table.contains("awq, 3 bits, groups of 32, 2% × 2"),
        "{table}"
    );

    let evaluated = read_json(&home.stage("runs", "eval").join("scores.json"));
    for (row, (name, _, calibrated)) in (evaluated["rows"].as_array().unwrap().iter()).zip(METHODS)
    {
        let directory = made(&home, name);
        let score = read_json(&directory.join("scores.json"));
        let of = |key: &str| score[key].as_f64().unwrap();
        let nll = row["nll"].as_f64().unwrap();
        assert!(
            (of("nll_second") - nll).abs() < 1e-5 * nll,
            "{name}: {nll} {score}"
        );
        assert!(
            of("mean_kl") > 0.0 && of("mean_kl") < 0.1,
            "{name}: {score}"
        );
        assert_eq!(row["tokens"], score["tokens"], "{name}");
        let written = read_json(&directory.join("model/quantization.json"));
        let layers = written["layers"].as_object().unwrap();
        assert_eq!(layers.len(), 3 * 7);
        assert_eq!(
            read_json(&directory.join("stage.json"))["config"]["quantize"]["calibration"].is_null(),
            !calibrated
        );
        let config = read_json(&directory.join("model/config.json"));
        assert!(config.get("quantization_config").is_none(), "{name}");
    }
    let bits = |name: &str| {
        let score = read_json(&made(&home, name).join("scores.json"));
        score["bits_per_weight"].as_f64().unwrap()
    };
    // A scale of 16 bits and a zero a group; rows have 64 or 128 columns.
    assert!((bits("rounded") - (4.0 + 20.0 / 32.0)).abs() < 1e-9);
    assert!(bits("plain") > 8.0 && bits("plain") < 8.4);
    assert!(bits("llm") > bits("plain"));
    assert!(bits("four") > 4.0 && bits("four") < 4.3);
    let llm = read_json(&made(&home, "llm").join("model/quantization.json"));
    assert_eq!(
        llm["method"],
        json!({ "kind": "llm_int8", "threshold": 2.5 })
    );
    let outliers = |layer: &Value| layer["activations"]["outliers"].as_u64().unwrap();
    let most = llm["layers"]
        .as_object()
        .unwrap()
        .values()
        .map(outliers)
        .max();
    assert!(most > Some(0) && most < Some(64), "{most:?}");

    let again = home.run();
    assert_success(&again);
    let count = METHODS.len() + 1;
    assert_eq!(stderr(&again).matches(": done before\n").count(), count);
    assert_eq!(tables(&stdout(&again)), tables(&text));
    // The seed has a part where calibration windows are drawn, and nowhere else.
    let other = home.distill(&["run", RECIPE, "--set", "seed=4"]);
    assert_success(&other);
    let untouched = METHODS.iter().filter(|(.., calibrated)| !calibrated);
    let done = stderr(&other).matches(": done before\n").count();
    assert_eq!(done, untouched.count(), "{}", stderr(&other));
}

#[test]
fn codes_stand_for_the_weights_and_a_changed_model_leaves_them_behind() {
    let home = Home::new();
    let stages = [
        stage("tiny", r#"{ kind = "gptq", bits = 4, group_size = 16 }"#, CALIBRATION, "gptq"),
        stage("tiny", METHODS[5].1, CALIBRATION, "fixed"),
        "[[stage]]\nkind = \"sft\"\nmodel = \"fixed\"\ndata = \"train\"\nsteps = 1\nsequence_length = 32\ntokens_per_step = 32\nas = \"tuned\"\n".into(),
        "[[stage]]\nkind = \"prune\"\nmodel = \"fixed\"\nkeep_layers = [0]\n".into(),
        stage("gptq", METHODS[0].1, "", "again"),
    ];
    home.write(RECIPE, [HEAD, &stages.concat()].concat());
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    for part in [
        "quantised by \"zero_point_int8\"; training starts from",
        "the rounding of activations goes",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(
        !made(&home, "tuned")
            .join("model/quantization.json")
            .exists()
    );

    let model = made(&home, "gptq").join("model");
    let [codes, weights] = ["quantization.safetensors", "model.safetensors"]
        .map(|file| fs::read(model.join(file)).unwrap());
    let [codes, weights] =
        [&codes, &weights].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    for module in [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.mlp.down_proj",
    ] {
        let part = |name: &str| codes.tensor(&format!("{module}.{name}")).unwrap();
        let (codes, scales, zeros) = (part("codes"), part("scales"), part("zeros"));
        let [rows, columns] = [codes.shape()[0], codes.shape()[1]];
        assert_eq!(scales.shape(), [rows, columns / 16]);
        let weight = weights.tensor(&format!("{module}.weight")).unwrap();
        for (at, value) in weight.data().as_chunks::<4>().0.iter().enumerate() {
            let group = at / columns * (columns / 16) + at % columns / 16;
            let scale = half(&scales.data()[2 * group..]);
            let code = f32::from(codes.data()[at]) - f32::from(zeros.data()[group]);
            assert_eq!(f32::from_le_bytes(*value), scale * code);
        }
    }

    let fixed = made(&home, "fixed").join("model");
    let path = fixed.to_str().unwrap();
    let generate = [
        "generate",
        "--model",
        path,
        "--prompt",
        "The mill",
        "--max-tokens",
        "4",
    ];
    assert_success(&home.distill(&generate));
    let json = fixed.join("quantization.json");
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.replacen("\"bits\": 8", "\"bits\": 1", 1)).unwrap();
    let broken = home.distill(&["score", "--model", path, "--text", "The mill"]);
    assert_failure(
        &broken,
        1,
        &["quantization.json", "codes.bits` is 1, expected 2 to 8"],
    );
    fs::write(&json, text).unwrap();
    fs::write(fixed.join("quantization.safetensors"), b"short").unwrap();
    let broken = home.distill(&["score", "--model", path, "--text", "The mill"]);
    assert_failure(&broken, 1, &["quantization.safetensors"]);
}

/// A positive normal or subnormal f16.
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    let (exponent, fraction) = (i32::from(bits >> 10), f32::from(bits & 0x3FF));
    match exponent {
        0 => fraction * 2.0_f32.powi(-24),
        _ => (1.0 + fraction / 1024.0) * 2.0_f32.powi(exponent - 15),
    }
}

#[test]
fn what_a_recipe_gets_wrong_is_told_before_anything_runs() {
    let home = Home::new();
    let cases: [(&str, &str, &[&str]); 12] = [
        (r#""int9""#, "", &["unknown value `int9`", "awq"]),
        (r#"{ kind = "nf4", bits = 4 }"#, "", &["unknown key `bits`"]),
        (
            r#"{ kind = "gptq", bits = 4, group = 32 }"#,
            CALIBRATION,
            &["unknown key `group`", "group_size"],
        ),
        (
            r#"{ kind = "gptq", bits = 4 }"#,
            "",
            &["`gptq` needs `calibration`"],
        ),
        (
            r#"{ kind = "llm_int8" }"#,
            "",
            &["`llm_int8` needs `calibration`"],
        ),
        (
            r#"{ kind = "absmax_int8", activations = "static" }"#,
            "",
            &["needs `calibration`"],
        ),
        (r#""nf4""#, CALIBRATION, &["`nf4` takes no `calibration`"]),
        (
            r#"{ kind = "gptq", bits = 9 }"#,
            CALIBRATION,
            &["`bits` must lie between 2 and 8"],
        ),
        (
            r#"{ kind = "round_to_nearest", bits = 4, group_size = 0 }"#,
            "",
            &["`group_size` must be at least 1"],
        ),
        (
            r#"{ kind = "llm_int8", threshold = 0.0 }"#,
            CALIBRATION,
            &["`threshold` must lie between"],
        ),
        (
            r#"{ kind = "awq", bits = 4, scaling = { kind = "search", grid = 0 } }"#,
            CALIBRATION,
            &["`grid` must lie between 1 and 1000"],
        ),
        (
            r#"{ kind = "awq", bits = 4, scaling = { kind = "salient", share = 1.0, scale = 2.0 } }"#,
            CALIBRATION,
            &["`share` must lie between 0 and 1"],
        ),
    ];
    for (method, calibration, parts) in cases {
        let text = [HEAD, &stage("tiny", method, calibration, "q")].concat();
        home.write(RECIPE, text);
        let output = home.run();
        assert_failure(&output, 2, parts);
        assert!(stderr(&output).contains("r.toml:"), "{}", stderr(&output));
        assert!(!home.path("runs").exists());
    }
}

#[test]
fn an_export_that_cannot_be_is_told_before_anything_is_made() {
    let home = Home::new();
    let export = "[[stage]]\nkind = \"export\"\nmodel = \"q\"\nto = \"gptq\"\n";
    for (method, part) in [
        (
            r#"{ kind = "round_to_nearest", bits = 5 }"#,
            "2, 3, 4 or 8 bits, and these have 5",
        ),
        (r#""nf4""#, "integers alone, and `nf4` leaves others"),
        (
            r#"{ kind = "ggml", type = "q8_0" }"#,
            "and `ggml` leaves others",
        ),
    ] {
        home.write(
            RECIPE,
            [HEAD, &stage("tiny", method, "", "q"), export].concat(),
        );
        let check = home.distill(&["check", RECIPE]);
        assert_failure(&check, 2, &[part, "r.toml:"]);
    }
}

#[test]
fn what_does_not_fit_the_model_or_the_text_leaves_nothing() {
    let home = Home::new();
    let gptq = r#"{ kind = "gptq", bits = 4, group_size = 48 }"#;
    let whole = r#"{ kind = "gptq", bits = 4 }"#;
    let calibration = |sequences: usize, length: usize| {
        format!(
            "calibration = {{ data = \"train\", sequences = {sequences}, sequence_length = {length} }}"
        )
    };
    let long = calibration(100, 32);
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            gptq,
            CALIBRATION,
            &[
                "tensor `model.layers.0.self_attn.q_proj.weight`",
                "a row of 32 values",
                "groups of 48",
            ],
        ),
        (
            r#"{ kind = "round_to_nearest", bits = 4, group_size = 24 }"#,
            "",
            &["q_proj.weight`", "groups of 24"],
        ),
        (r#""nf4""#, "", &["q_proj.weight`", "NF4 blocks of 64"]),
        (
            whole,
            &long,
            &[
                "`calibration` (r.toml:",
                "tokens, 100 sequences of 32 need 3200",
                "hint: fewer or shorter",
            ],
        ),
        (
            whole,
            &calibration(1, 100_000),
            &[
                "`calibration.sequence_length` (r.toml:",
                "is 100000, but the model sees",
            ],
        ),
        (
            r#"{ kind = "absmax_int8" }"#,
            "window = 1000000",
            &["window = 1000000"],
        ),
    ];
    for (method, extra, parts) in cases {
        let mut text = [HEAD, &stage("tiny", method, extra, "q")].concat();
        if extra.starts_with("window") {
            text = text.replace("window = 64\n", "");
        }
        home.write(RECIPE, text);
        let output = home.run();
        assert_failure(&output, 1, parts);
        assert!(home.stages("runs", "quantize").is_empty(), "{parts:?}");
        fs::remove_dir_all(home.path("runs")).unwrap();
    }
}

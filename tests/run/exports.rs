//! A model exported to a place of the user's choice.

use std::fs;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr};
use crate::models::random;
use crate::weights::relative_difference;

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[[stage]]
kind = "export"
model = "tiny"
to = "safetensors"
path = "place/model"
"#;

#[test]
fn a_kill_before_the_record_is_made_up_for_and_what_others_wrote_is_left() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    assert_success(&home.run());
    let model = home.path("place/model");
    assert_eq!(relative_difference(&model, &home.path("tiny")), 0.0);

    // As a kill between the two would have left it.
    let record = home.stage("runs", "export").join("stage.json");
    fs::remove_file(&record).unwrap();
    assert_success(&home.run());
    assert!(record.exists());
    assert!(!home.stage("runs", "export").join("model").exists());

    fs::remove_file(&record).unwrap();
    home.write("place/model/generation_config.json", "{}");
    let parts = [
        "stage 1 (export): ",
        "place/model: exists already; remove it or choose another place",
    ];
    assert_failure(&home.run(), 1, &parts);
    assert_eq!(
        fs::read(model.join("generation_config.json")).unwrap(),
        b"{}"
    );
}

const GGUF: &str = r#"
[models.tiny]
source = "tiny"
[[stage]]
kind = "export"
model = "tiny"
to = "gguf"
type = "q8_0"
path = "place/tiny.gguf"
verify = { max_kl = 100.0 }
"#;

#[test]
fn a_gguf_file_is_verified_recorded_and_never_overwritten() {
    let home = Home::new();
    home.write(RECIPE, GGUF);
    let parts = [
        "stage 1 (export): ",
        "GGUF has no name for its model",
        "known: BPE",
    ];
    assert_failure(&home.run(), 1, &parts);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::remove_file(home.path("tiny").join(file)).unwrap();
    }
    // Another model, another directory.
    fs::remove_dir_all(home.path("runs")).unwrap();
    let output = home.run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("Q8_0     13"),
        "{}",
        stderr(&output)
    );
    let stage = home.stage("runs", "export");
    let found = read_json(&stage.join("verify.json"));
    assert_eq!(
        (found["tokens"].as_u64(), found["max_kl"].as_f64()),
        (Some(512), Some(100.0))
    );
    assert!(found["mean_kl"].as_f64().unwrap() > 0.0, "{found}");
    let file = home.path("place/tiny.gguf");
    let bytes = fs::read(&file).unwrap();

    // As a kill between the file and its record would have left it.
    fs::remove_file(stage.join("stage.json")).unwrap();
    assert_success(&home.run());
    assert!(!stage.join("model.gguf").exists());
    assert_eq!(fs::read(&file).unwrap(), bytes);

    fs::remove_file(stage.join("stage.json")).unwrap();
    fs::write(&file, "mine").unwrap();
    assert_failure(&home.run(), 1, &["place/tiny.gguf: exists already"]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");

    home.write(
        RECIPE,
        GGUF.replace("100.0", "1e-9").replace("place/", "other/"),
    );
    assert_failure(
        &home.run(),
        1,
        &["by a mean KL of", "more than the 0.000000001", "not kept"],
    );
    assert_eq!(fs::read_dir(home.path("other")).unwrap().count(), 0);
}

const QUANTIZED: &str = r#"
[models.tiny]
source = "tiny"
[data.text]
source = "heldout.txt"
"#;

#[test]
fn integers_are_exported_in_gptqs_layout_and_read_back_as_the_same_model() {
    let home = Home::new();
    let stages = [
        (
            "gptq",
            r#"{ kind = "gptq", bits = 3, group_size = 32, damping = 0.05, activation_order = true }"#,
            3,
        ),
        ("awq", r#"{ kind = "awq", bits = 4, group_size = 64 }"#, 4),
    ];
    let text = stages.map(|(name, method, _)| {
        format!(
            r#"
[[stage]]
kind = "quantize"
model = "wide"
method = {method}
calibration = {{ data = "text", sequences = 4, sequence_length = 32 }}
heldout = "text"
window = 64
as = "{name}"
[[stage]]
kind = "export"
model = "{name}"
to = "gptq"
path = "place/{name}"
verify = true
"#
        )
    });
    let model = random("wide", 128, 80, "tiny", 1);
    home.write(RECIPE, [QUANTIZED, &model, &text.concat()].concat());
    assert_success(&home.run());
    for (name, _, bits) in stages {
        let place = home.path("place").join(name);
        let config = read_json(&place.join("config.json"));
        let found = &config["quantization_config"];
        assert_eq!(found["quant_method"], "gptq");
        assert_eq!(found["bits"], bits);
        assert_eq!(found["desc_act"], name == "gptq");
        assert!(place.join("tokenizer.json").exists());
    }
    for stage in home.stages("runs", "export") {
        let verified = read_json(&stage.join("verify.json"));
        assert!(verified["mean_kl"].as_f64().unwrap() < 1e-9, "{verified}");
    }
    let place = home.path("place/gptq");
    let (from, to) = (place.to_string_lossy(), home.path("place/again"));
    let again = ["export", "--model", &from, "--to", "gptq", "--out"];
    let again = home.distill(&[&again[..], &[&to.to_string_lossy()]].concat());
    let parts = ["has no integers to export", "hint: a stage `quantize`"];
    assert_failure(&again, 1, &parts);
    assert!(!to.exists());

    // Weights that were changed afterwards are not what the integers stand for.
    let model = home.stages("runs", "quantize").remove(0).join("model");
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for byte in &mut bytes[8 + header..] {
        *byte = 0;
    }
    fs::write(&weights, bytes).unwrap();
    let from = model.to_string_lossy();
    let again = ["export", "--model", &from, "--to", "gptq", "--out"];
    let again = home.distill(&[&again[..], &[&to.to_string_lossy()]].concat());
    let parts = [
        "is not what its integers stand for",
        "hint: quantise them again",
    ];
    assert_failure(&again, 1, &parts);
    assert!(!to.exists());
}

//! Model files that lie, are cut off or do not belong together.

use std::fs;

use serde_json::json;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr};
use crate::models::{TINY_TOKENS, characters, random, write_tiny, write_tokenizer};

const PRUNE: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
"#;

/// A second stage that takes in the model `bad`.
const EXPORT: &str = r#"
[[stage]]
kind = "export"
model = "bad"
to = "safetensors"
"#;

const SFT: &str = r#"
[[stage]]
kind = "sft"
model = "bad"
data = "train"
steps = 1
sequence_length = 32
tokens_per_step = 64
"#;

/// Runs the first stage, then with `more` the second, which fails; the first is still done after it.
fn fails_and_keeps_what_is_done(home: &Home, more: &str, parts: &[&str]) {
    home.write(RECIPE, PRUNE);
    assert_success(&home.run());
    let kept = home.stage("runs", "prune").join("stage.json");
    let before = fs::read(&kept).unwrap();
    home.write(RECIPE, format!("{PRUNE}{more}"));
    assert_failure(&home.run(), 1, parts);
    assert_eq!(fs::read(&kept).unwrap(), before);
    home.write(RECIPE, PRUNE);
    let again = home.run();
    assert_success(&again);
    assert!(stderr(&again).contains("prune → start: done before"));
}

fn model_from(path: &str) -> String {
    format!("[models.bad]\nsource = \"{path}\"\n{EXPORT}")
}

#[test]
fn a_cut_off_safetensors_file() {
    let home = Home::new();
    write_tiny(&home.path("cut"));
    let weights = home.path("cut/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for length in [0, 5, 300, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        let parts = ["stage 2 (export): model `bad`", "cut/model.safetensors"];
        fails_and_keeps_what_is_done(&home, &model_from("cut"), &parts);
    }
}

#[test]
fn a_gguf_file_whose_counts_are_beyond_it() {
    let home = Home::new();
    for (tensors, keys) in [(1 << 40, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::to_le_bytes(tensors));
        bytes.extend(u64::to_le_bytes(keys));
        home.write("lie.gguf", &bytes);
        let parts = ["stage 2 (export): model `bad`", "lie.gguf"];
        fails_and_keeps_what_is_done(&home, &model_from("lie.gguf"), &parts);
    }
}

#[test]
fn an_architecture_that_nobody_knows() {
    let home = Home::new();
    write_tiny(&home.path("strange"));
    let mut config = read_json(&home.path("strange/config.json"));
    config["model_type"] = json!("mamba");
    config["architectures"] = json!(["MambaForCausalLM"]);
    home.write("strange/config.json", config.to_string());
    let parts = ["strange/config.json", "mamba", "accepted: ", "llama"];
    fails_and_keeps_what_is_done(&home, &model_from("strange"), &parts);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_has_rows() {
    let home = Home::new();
    write_tiny(&home.path("wide"));
    let mut tokens = characters();
    tokens.push("@".to_string());
    write_tokenizer(&home.path("wide"), &tokens);
    fails_and_keeps_what_is_done(
        &home,
        &model_from("wide"),
        &["model `bad`", "wide", "81", "80"],
    );

    let random = random("bad", 32, TINY_TOKENS - 1, "tiny", 1);
    fails_and_keeps_what_is_done(&home, &(random + EXPORT), &["model `bad`", "80", "79"]);
}

#[test]
fn a_student_and_a_teacher_of_different_vocabularies() {
    let home = Home::new();
    write_tiny(&home.path("other"));
    let mut tokens = characters();
    // `h` is the first of those that the text has.
    let [h, z] = ["h", "z"].map(|wanted| tokens.iter().position(|token| token == wanted).unwrap());
    tokens.swap(h, z);
    write_tokenizer(&home.path("other"), &tokens);
    let more = r#"
[models.other]
source = "other"
[[stage]]
kind = "distill"
student = "start"
teacher = "other"
data = "train"
loss = [{ kind = "forward_kl" }]
steps = 2
sequence_length = 32
tokens_per_step = 64
"#;
    let told = format!("token {h} is \"h\" for the student and \"z\" for the teacher");
    fails_and_keeps_what_is_done(&home, more, &["stage 2 (distill)", &told]);
}

#[test]
fn a_model_without_weights_or_without_a_tokenizer() {
    let home = Home::new();
    write_tiny(&home.path("bare"));
    fs::remove_file(home.path("bare/tokenizer.json")).unwrap();
    let train = model_from("bare").replace(EXPORT, SFT);
    fails_and_keeps_what_is_done(&home, &train, &["model `bad`", "no tokenizer"]);
    fs::remove_file(home.path("bare/model.safetensors")).unwrap();
    fails_and_keeps_what_is_done(&home, &model_from("bare"), &["model `bad`", "bare"]);
}

#[test]
fn a_layer_that_a_model_does_not_have() {
    let home = Home::new();
    let more = r#"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0, 2]
"#;
    let parts = ["stage 2 (prune)", "layer 2", "layers 0 to 1"];
    fails_and_keeps_what_is_done(&home, more, &parts);
    let home = Home::new();
    let more = r#"
[[stage]]
kind = "distill"
student = "start"
teacher = "tiny"
data = "train"
loss = [{ kind = "hidden_mse", layers = [[2, 2]] }]
steps = 2
sequence_length = 32
tokens_per_step = 64
"#;
    let parts = [
        "stage 2 (distill)",
        "layer 2 of the student, which has 1 blocks",
        "hint: ",
    ];
    fails_and_keeps_what_is_done(&home, more, &parts);
}

/// Biases of q, k and v alone: Llama's file of another kind has no name for them.
#[test]
fn a_model_that_cannot_be_saved_is_told_before_it_is_trained() {
    let home = Home::new();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = golden.join("tests/golden/checkpoints/qwen2");
    fs::create_dir_all(home.path("qwen")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), home.path("qwen").join(file)).unwrap();
    }
    home.write(
        RECIPE,
        "[models.qwen]\nsource = \"qwen\"\n[[stage]]\nkind = \"export\"\nmodel = \"qwen\"\nto = \"gguf\"\ntype = \"f32\"\npath = \"bad.gguf\"\n",
    );
    assert_success(&home.run());
    let mut bytes = fs::read(home.path("bad.gguf")).unwrap();
    for at in 0..bytes.len() - 5 {
        if &bytes[at..at + 5] == b"qwen2" {
            bytes[at..at + 5].copy_from_slice(b"llama");
        }
    }
    home.write("bad.gguf", bytes);
    let bad = "[models.bad]\nsource = \"bad.gguf\"\ntokenizer = \"tiny\"\n";
    fails_and_keeps_what_is_done(
        &home,
        &format!("{bad}{SFT}"),
        &[
            "stage 2 (sft): `model`",
            "no key for these biases of attention",
        ],
    );
}

//! The true weights of SmolLM2-135M through the whole chain, for a few steps on a few tokens.

use crate::home::{Home, RECIPE, assert_success, metrics, read_json, stdout};
use crate::models::SMOL;

const STAGES: &str = r#"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "smol"
keep_layers = [0, 15, 29]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "smol"
data = "train"
loss = [{ kind = "forward_kl", temperature = 2.0 }, { kind = "cross_entropy", weight = 0.1 }]
optimizer = { kind = "adamw", lr = 2e-4 }
schedule = { kind = "constant" }
steps = 2
sequence_length = 64
tokens_per_step = 64
as = "student"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["smol", "start", "student"]
data = "heldout"
[[stage]]
kind = "export"
model = "student"
to = "safetensors"
path = "student"
[[stage]]
kind = "export"
model = "student"
to = "gguf"
type = "q8_0"
verify = { data = "heldout" }
"#;

const REOPENED: &str = r#"
[models.student]
source = "student"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["student"]
data = "heldout"
"#;

#[test]
fn smollm2_is_pruned_distilled_scored_and_exported() {
    let home = Home::with_user_cache();
    // Both steps see the same tokens, so that their losses compare.
    home.write(
        "train.txt",
        "The mill stood by the river, and the miller's daughter kept the books.",
    );
    home.write(RECIPE, format!("seed = 7{SMOL}{STAGES}"));
    assert_success(&home.run());

    let lines = metrics(&home.stage("runs", "distill"));
    let losses: Vec<f64> = lines
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    println!("losses {losses:?}");
    assert_eq!(losses.len(), 2);
    assert!(losses[1] < losses[0], "{losses:?}");

    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let nll = |row: usize| scores["rows"][row]["nll"].as_f64().unwrap();
    println!("nll: smol {}, start {}, student {}", nll(0), nll(1), nll(2));
    assert!(nll(0) < nll(1) && nll(2) < nll(1), "{scores}");

    let text = [
        "score",
        "--model",
        "student",
        "--file",
        "heldout.txt",
        "--json",
    ];
    let scored = home.distill(&text);
    assert_success(&scored);
    let scored: serde_json::Value = serde_json::from_str(&stdout(&scored)).unwrap();
    let difference = scored["nll"].as_f64().unwrap() - nll(2);
    assert!(difference.abs() < 1e-5, "{difference}");

    let exports = home.stages("runs", "export");
    let gguf = exports
        .iter()
        .find(|stage| stage.join("model.gguf").exists())
        .unwrap();
    let verified = read_json(&gguf.join("verify.json"));
    println!("{verified}");
    // Its tokenizer went through tokenizer.json; equal ids are part of the check.
    assert!(verified["mean_kl"].as_f64().unwrap() < 0.01, "{verified}");

    home.write(RECIPE, REOPENED);
    assert_success(&home.distill(&["run", RECIPE, "--out", "reopened"]));
    let again = read_json(&home.stage("reopened", "eval").join("scores.json"));
    assert_eq!(again["rows"][0], scores["rows"][2]);
}

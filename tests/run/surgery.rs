//! Stages that change a model's architecture: `prune` and `gqa`.

use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, steps};
use crate::models::SMOL;
use crate::weights::relative_difference;

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "gqa"
model = "tiny"
kv_heads = 2
as = "mean"
[[stage]]
kind = "gqa"
model = "tiny"
kv_heads = 2
pooling = "first"
as = "first"
[[stage]]
kind = "gqa"
model = "tiny"
kv_heads = 2
pooling = "random"
as = "fresh"
[[stage]]
kind = "prune"
model = "mean"
keep_layers = { count = 1, by = "importance", data = "train", sequences = 2 }
ffn_width = { keep = 0.6, by = "activation", data = "train", sequences = 2 }
as = "small"
[[stage]]
kind = "distill"
student = "small"
teacher = "tiny"
data = "train"
loss = [{ kind = "forward_kl" }]
steps = 2
sequence_length = 32
tokens_per_step = 64
as = "student"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["tiny", "mean", "first", "fresh", "small", "student"]
data = "heldout"
"#;

fn config(stage: &Path) -> Value {
    read_json(&stage.join("model/config.json"))
}

/// The directory of the stage that makes `name`.
fn made(home: &Home, name: &str) -> std::path::PathBuf {
    let lineage = read_json(&home.path("runs/r/lineage.json"));
    let stages = lineage["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["as"] == name).unwrap();
    home.path("runs/r")
        .join(stage["directory"].as_str().unwrap())
}

#[test]
fn a_model_with_fewer_heads_layers_and_channels_learns_and_is_scored() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    assert_success(&home.run());
    for name in ["mean", "first", "fresh"] {
        assert_eq!(config(&made(&home, name))["num_key_value_heads"], 2);
    }
    let small = config(&made(&home, "small"));
    for (key, value) in [
        ("num_hidden_layers", json!(1)),
        ("intermediate_size", json!(32)),
        ("num_key_value_heads", json!(2)),
        ("num_attention_heads", json!(4)),
        ("head_dim", json!(8)),
    ] {
        assert_eq!(small[key], value, "{key}");
    }
    assert_eq!(steps(&made(&home, "student")), [1, 2]);
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    let scored = scores["rows"].as_array().unwrap();
    let finite = |row: &Value| row["nll"].as_f64().is_some_and(f64::is_finite);
    assert_eq!(scored.len(), 6);
    assert!(scored.iter().all(finite), "{scores}");

    let before = made(&home, "mean");
    assert_eq!(stderr(&home.run()).matches(": done before\n").count(), 6);
    // The seed has a part in fresh heads alone, and in training.
    let other = home.distill(&["run", RECIPE, "--set", "seed=5"]);
    assert_success(&other);
    assert_eq!(stderr(&other).matches(": done before\n").count(), 3);
    assert_eq!(made(&home, "mean"), before);
    let fresh = home.stages("runs", "gqa").len();
    assert_eq!(fresh, 4, "two of them drew random heads");
}

#[test]
fn all_heads_and_all_channels_are_the_model_itself() {
    let home = Home::new();
    let stages = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "gqa"
model = "tiny"
kv_heads = 4
pooling = "random"
as = "heads"
[[stage]]
kind = "prune"
model = "heads"
ffn_width = { keep = 1.0, by = "activation", data = "train" }
"#;
    home.write(RECIPE, stages);
    assert_success(&home.run());
    let pruned = home.stage("runs", "prune").join("model");
    assert_eq!(relative_difference(&pruned, &home.path("tiny")), 0.0);
}

#[test]
fn what_cannot_be_is_told_with_its_place() {
    let home = Home::new();
    let good = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "gqa"
model = "tiny"
kv_heads = 2
pooling = "mean"
[[stage]]
kind = "prune"
model = "tiny"
ffn_width = { keep = 32, by = "activation", data = "train" }
"#;
    for (right, wrong, code, parts) in [
        (
            "kv_heads = 2",
            "kv_heads = 3",
            1,
            &[
                "stage 1 (gqa): `kv_heads` (r.toml:9): 3 key/value heads cannot be made of 4",
                "hint: this model can have 1, 2 or 4",
            ][..],
        ),
        (
            "kv_heads = 2",
            "kv_heads = 0",
            2,
            &["`kv_heads` must be at least 1", "r.toml:9:12"],
        ),
        (
            "kv_heads = 2\n",
            "",
            2,
            &["missing key `kv_heads`", "r.toml:6:1"],
        ),
        (
            "\"mean\"",
            "\"median\"",
            2,
            &["r.toml:10:11", "accepted: mean, first, random"],
        ),
        (
            "keep = 32",
            "keep = 64",
            1,
            &[
                "stage 2 (prune): `ffn_width.keep` (r.toml:14): 64 channels cannot be kept of an FFN that has 48",
            ],
        ),
        (
            "keep = 32",
            "keep = 33",
            2,
            &["`keep` must be a multiple of 32", "r.toml:14:22"],
        ),
        (
            "keep = 32",
            "keep = 0",
            2,
            &["a multiple of 32", "r.toml:14:22"],
        ),
        ("keep = 32", "keep = -32", 2, &["r.toml:14:22"]),
        (
            "data = \"train\" }",
            "data = \"train\", sequences = 9000 }",
            1,
            &[
                "stage 2 (prune): `ffn_width.sequences` (r.toml:14) is 9000, but the text has",
                "hint: lower `sequences`",
            ],
        ),
        (
            "keep = 32",
            "keep = 1.5",
            2,
            &["be at most 1.0", "r.toml:14:22"],
        ),
        ("keep = 32", "keep = nan", 2, &["r.toml:14:22"]),
        (
            "{ keep = 32, by = \"activation\", data = \"train\" }",
            "32",
            2,
            &["r.toml:14:13", "expected { keep = 1024, by ="],
        ),
        (
            ", data = \"train\"",
            "",
            2,
            &["missing key `data`", "r.toml:14:"],
        ),
        (
            "data = \"train\"",
            "data = \"tiny\"",
            2,
            &["`tiny` is a model, data is wanted here", "r.toml:14:"],
        ),
        (
            "ffn_width = { keep = 32, by = \"activation\", data = \"train\" }",
            "",
            2,
            &["`prune` needs `keep_layers` or `ffn_width`", "r.toml:11:1"],
        ),
    ] {
        assert!(good.contains(right), "{right}");
        home.write(RECIPE, good.replace(right, wrong));
        assert_failure(&home.run(), code, parts);
    }
}

#[test]
fn smollm2_loses_heads_layers_and_channels() {
    let home = Home::with_user_cache();
    let stages = r#"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "smol"
keep_layers = [0, 15, 29]
ffn_width = { keep = 768, by = "activation", data = "train", sequences = 1 }
as = "narrow"
[[stage]]
kind = "gqa"
model = "narrow"
kv_heads = 1
as = "start"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["narrow", "start"]
data = "heldout"
"#;
    home.write(RECIPE, format!("{SMOL}{stages}"));
    assert_success(&home.run());
    let start = config(&made(&home, "start"));
    for (key, value) in [
        ("num_hidden_layers", 3),
        ("intermediate_size", 768),
        ("num_key_value_heads", 1),
        ("num_attention_heads", 9),
        ("head_dim", 64),
    ] {
        assert_eq!(start[key], value, "{key}");
    }
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    for row in scores["rows"].as_array().unwrap() {
        assert!(row["nll"].as_f64().unwrap().is_finite(), "{scores}");
    }
}

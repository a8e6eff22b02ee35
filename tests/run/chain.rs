//! A chain of every kind of stage, run once and run again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, stdout, steps,
};
use crate::models::{SMOL, random};

const STAGES: &str = r#"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "small"
keep_layers = [0, 2]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "teacher"
data = "train"
heldout = "heldout"
evaluate_every = 2
loss = [
  { kind = "forward_kl", weight = 0.8, temperature = 2.0 },
  { kind = "cross_entropy", weight = 0.1 },
  { kind = "hidden_mse", weight = 0.1, layers = [[1, 1], [2, 3]] },
]
steps = 4
sequence_length = 32
tokens_per_step = 128
checkpoint_every = 3
as = "student"
[[stage]]
kind = "sft"
model = "student"
data = "train"
steps = 3
sequence_length = 32
tokens_per_step = 64
as = "tuned"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["teacher", "start", "student", "tuned"]
data = "heldout"
window = 64
[[stage]]
kind = "export"
model = "tuned"
to = "safetensors"
[preset.short]
stage.student.steps = 2
stage.tuned.steps = 1
"#;

fn home() -> Home {
    let home = Home::with_user_cache();
    let teacher = random("teacher", 48, 49152, "smol", 1);
    // Narrower than its teacher: comparing hidden states takes projections.
    let small = random("small", 32, 49152, "smol", 2);
    home.write(RECIPE, format!("seed = 7{SMOL}{teacher}{small}{STAGES}"));
    home
}

/// The part of the closing text that does not tell of this very run.
fn tables(text: &str) -> &str {
    text.split("\nstages ").next().unwrap()
}

#[test]
fn every_stage_leaves_its_record_and_is_not_done_twice() {
    let home = home();
    let first = home.run();
    assert_success(&first);
    let text = stdout(&first);
    for part in [
        "perplexity on heldout\n",
        "teacher ",
        "start ",
        "student ",
        "tuned ",
        "exported ",
        "next: ",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(tables(&text).lines().count(), 7, "{text}");

    let lineage = read_json(&home.path("runs/r/lineage.json"));
    let listed = lineage["stages"].as_array().unwrap();
    let kinds = ["prune", "distill", "sft", "eval", "export"];
    for (stage, kind) in listed.iter().zip(kinds) {
        let directory = home.stage("runs", kind);
        assert_eq!(stage["kind"], kind);
        assert_eq!(*stage, read_json(&directory.join("stage.json")));
        assert_eq!(
            stage["directory"],
            directory.file_name().unwrap().to_str().unwrap()
        );
        assert!(!directory.join("checkpoints").exists(), "{kind} is done");
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(
            mode(&directory.join("stage.json")),
            mode(&home.path(RECIPE)),
            "who may read it"
        );
    }
    assert_eq!(listed.len(), kinds.len());

    let distilled = home.stage("runs", "distill");
    assert_eq!(steps(&distilled), [1, 2, 3, 4]);
    let heldout: Vec<u64> = (metrics(&distilled).iter())
        .filter(|line| line.get("heldout_nll").is_some())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(heldout, [0, 2, 4]);
    let losses = metrics(&distilled)[1]["losses"].clone();
    let names: Vec<&String> = losses.as_object().unwrap().keys().collect();
    assert_eq!(names, ["forward_kl.0", "cross_entropy.1", "hidden_mse.2"]);
    assert_eq!(steps(&home.stage("runs", "sft")), [1, 2, 3]);

    let start = Instant::now();
    let again = home.run();
    let seconds = start.elapsed().as_secs_f64();
    assert_success(&again);
    assert_eq!(
        stderr(&again).matches(": done before\n").count(),
        5,
        "{}",
        stderr(&again)
    );
    assert_eq!(tables(&stdout(&again)), tables(&text));
    assert!(seconds < 2.0, "{seconds} s");
    println!("{text}\nagain in {seconds:.3} s");
}

#[test]
fn presets_and_set_reach_the_stages_that_run() {
    let home = home();
    assert_success(&home.distill(&["run", RECIPE, "--preset", "short"]));
    assert_eq!(steps(&home.stage("runs", "distill")), [1, 2]);
    assert_eq!(steps(&home.stage("runs", "sft")), [1]);

    let set = [
        "run",
        RECIPE,
        "--preset",
        "short",
        "--set",
        "stage.tuned.steps=2",
        "--out",
        "other",
    ];
    assert_success(&home.distill(&set));
    assert_eq!(steps(&home.stage("other", "distill")), [1, 2]);
    assert_eq!(steps(&home.stage("other", "sft")), [1, 2]);

    let unknown = home.distill(&["run", RECIPE, "--preset", "sort"]);
    assert_failure(
        &unknown,
        2,
        &["no preset `sort`", "hint: did you mean `short`?"],
    );
}

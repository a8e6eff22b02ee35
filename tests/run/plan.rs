//! `distill plan`, and a run that is refused because it would not fit.

use std::fs;

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[models.random]
tokenizer = "tiny"
[models.random.source]
kind = "random"
[models.random.source.config]
architectures = ["LlamaForCausalLM"]
model_type = "llama"
hidden_act = "silu"
vocab_size = VOCABULARY
hidden_size = 512
intermediate_size = 2048
num_hidden_layers = 6
num_attention_heads = 8
num_key_value_heads = 2
max_position_embeddings = 512
rms_norm_eps = 1e-5
tie_word_embeddings = true
[data.train]
source = "train.txt"
[[stage]]
kind = "sft"
model = "random"
data = "train"
steps = 2
sequence_length = 128
tokens_per_step = 1024
as = "tuned"
[[stage]]
kind = "export"
model = "tuned"
to = "safetensors"
"#;

fn home() -> Home {
    let home = Home::new();
    let config = read_json(&home.path("tiny/config.json"));
    let vocabulary = config["vocab_size"].to_string();
    home.write(RECIPE, STAGES.replace("VOCABULARY", &vocabulary));
    home
}

fn plan(home: &Home, arguments: &[&str]) -> Value {
    let output = home.distill(&[&["plan", RECIPE, "--json", "--no-probe"], arguments].concat());
    assert_success(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn total(plan: &Value, stage: usize) -> u64 {
    plan["stages"][stage]["memory"]["total"].as_u64().unwrap()
}

#[test]
fn memory_comes_as_planned_and_both_are_kept() {
    let home = home();
    let planned = plan(&home, &[]);
    assert_eq!(planned["stages"][0]["done"], false);
    // Nothing was written for it.
    assert!(!home.path("runs").exists());
    let output = home.run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("plan → actual"),
        "{}",
        stderr(&output)
    );
    let kept = read_json(&home.path("runs/r/plan.json"));
    let stage = &kept["stages"][0];
    assert_eq!(stage["plan"]["memory"], planned["stages"][0]["memory"]);
    assert!(stage["actual"]["step_seconds"].as_f64().unwrap() > 0.0);
    if let Some(actual) = stage["actual"]["peak_bytes"].as_u64() {
        let off = actual as f64 / total(&planned, 0) as f64 - 1.0;
        assert!(off.abs() < 0.1, "{off:+.3}: {stage:#}");
    }
    // What is done is said, and what was measured stays when nothing runs.
    assert_eq!(plan(&home, &[])["stages"][0]["done"], true);
    assert_success(&home.run());
    let again = read_json(&home.path("runs/r/plan.json"));
    assert_eq!(again["stages"][0]["actual"], stage["actual"]);
}

#[test]
fn a_run_ends_well_without_its_plan() {
    let home = home();
    fs::create_dir_all(home.path("runs/r/plan.json")).unwrap();
    let output = home.run();
    assert_success(&output);
    let says = stderr(&output);
    for part in [
        "cannot write runs/r/plan.json: ",
        "the report of this run will lack plan against actual",
        "plan → actual",
        "plan.json cannot be read (",
    ] {
        assert!(says.contains(part), "{part}: {says}");
    }
    assert!(stdout(&output).contains("report    runs/r/report.html"));
}

#[test]
fn what_does_not_fit_is_refused_and_the_first_change_makes_it_run() {
    let home = home();
    let limit = (total(&plan(&home, &[]), 0) - (30 << 20)).to_string();
    let short = ["run", RECIPE, "--memory", &limit];
    let says = assert_failure(
        &home.distill(&short),
        1,
        &["stage 1 (sft → tuned) needs", "--force", "micro_batch="],
    );
    let changes: Vec<&str> = (says.lines())
        .filter_map(|line| line.trim().strip_prefix("--set "))
        .collect();
    assert_eq!(changes.len(), 3, "{says}");
    let (set, _) = changes[0].split_once("  ").unwrap();
    // The plan of the changed recipe is what the change was said to need.
    let changed = plan(&home, &["--set", set, "--memory", &limit]);
    assert_eq!(changed["too_large"], serde_json::json!([]));
    assert_success(&home.distill(&[&short[..], &["--set", set]].concat()));
    // Who insists may.
    let forced = [&short[..], &["--force", "--out", "others"]].concat();
    assert_success(&home.distill(&forced));
}

#[test]
fn a_machine_that_is_not_here_and_a_model_that_is_not_fetched() {
    let home = home();
    let text = std::fs::read_to_string(home.path(RECIPE)).unwrap();
    let text = text.replace("source = \"tiny\"", "source = \"hf:nobody/has-this\"");
    home.write(
        "other.toml",
        text.replace("model = \"random\"", "model = \"tiny\""),
    );
    let output = home.distill(&["plan", "other.toml", "--device", "h200", "--json"]);
    assert_success(&output);
    let plan: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(plan["device"], "h200");
    assert_eq!(plan["measured"], false);
    let notes = plan["stages"][0]["notes"].to_string();
    assert!(
        notes.contains("`tiny`: it is not on this machine yet"),
        "{notes}"
    );
    assert_eq!(plan["stages"][0].get("memory"), None);
    let table = home.distill(&["plan", RECIPE, "--device", "a100"]);
    assert_success(&table);
    let shown = stdout(&table);
    for part in [
        "optimizer state",
        "with `checkpoint_blocks`",
        "not measured on a GPU",
        "200 sequences (100 by",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let unknown = home.distill(&["plan", RECIPE, "--device", "abacus"]);
    assert_failure(&unknown, 2, &["abacus", "h200"]);
}

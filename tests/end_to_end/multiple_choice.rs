//! Questions with choices on SmolLM2, against the log-likelihoods that lm-eval computes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{distill, stderr, stdout};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the recipe's short form with a few questions of each set; the stages' directories by name.
fn evaluate(out: &Path) -> impl Fn(&str) -> PathBuf {
    let mut arguments = vec!["run", "recipes/evaluate.toml", "--preset", "short"];
    arguments.extend(["--out", out.to_str().unwrap()]);
    for set in [
        "stage.mmlu_scores.limit=12",
        "stage.hellaswag_scores.limit=8",
        "stage.truthfulqa_scores.limit=8",
        "stage.gsm8k_scores.limit=2",
        "stage.gsm8k_scores.max_tokens=8",
    ] {
        arguments.extend(["--set", set]);
    }
    let output = distill(here(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let run = out.join("evaluate");
    let lineage: Value =
        serde_json::from_str(&fs::read_to_string(run.join("lineage.json")).unwrap()).unwrap();
    move |name: &str| {
        let stages = lineage["stages"].as_array().unwrap();
        let stage = stages.iter().find(|stage| stage["as"] == name).unwrap();
        run.join(stage["directory"].as_str().unwrap())
    }
}

#[test]
fn choices_have_the_log_likelihoods_of_lm_eval_and_two_evaluations_are_compared() {
    let place = tempfile::tempdir().unwrap();
    let stage = evaluate(place.path());
    let golden = fs::read_to_string(here().join("tests/golden/multiple_choice.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    for (task, name, count) in [
        ("mmlu", "mmlu_scores", 12),
        ("hellaswag", "hellaswag_scores", 8),
        ("truthfulqa_mc1", "truthfulqa_scores", 8),
    ] {
        let text = fs::read_to_string(stage(name).join("records-1-small.jsonl")).unwrap();
        let records: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), count);
        for record in &records {
            let number = record["number"].to_string();
            let theirs = golden[task][&number].as_array().unwrap();
            let ours = record["log_likelihoods"].as_array().unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.iter().zip(theirs) {
                let difference = ours.as_f64().unwrap() - theirs.as_f64().unwrap();
                assert!(difference.abs() < 2e-3, "{task} {number}: {ours} {theirs}");
            }
        }
        let scores: Value =
            serde_json::from_str(&fs::read_to_string(stage(name).join("scores.json")).unwrap())
                .unwrap();
        let right = records
            .iter()
            .filter(|record| record["correct"] == true)
            .count();
        assert_eq!(scores["rows"][0]["correct"], right);
    }
    let records = stage("mmlu_scores").join("records-1-small.jsonl");
    let path = records.to_str().unwrap();
    let output = distill(here(), &["eval", "--compare", path, path]);
    let said = stdout(&output);
    assert!(
        output.status.success() && said.contains("McNemar's p  1.0000"),
        "{said}{}",
        stderr(&output)
    );
}

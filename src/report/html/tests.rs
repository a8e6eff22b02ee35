use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use super::*;

const BAD: &str = "<script>alert('x')</script>\" onload=\"alert(2)";

fn write(directory: &Path, file: &str, text: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(file), text).unwrap();
}

fn described(number: usize, kind: &str, name: &str) -> Value {
    json!({
        "stage": number,
        "kind": kind,
        "as": name,
        "digest": format!("{number:064}"),
        "directory": format!("{kind}-{number:012}"),
        "inputs": [{ "key": "data.0.name", "name": name, "digest": "0".repeat(64) }],
        "seed": 7,
        "version": "0.1.0",
    })
}

/// A run of these stages, each done.
fn run_of(stages: &[Value]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let lineage = json!({ "recipe": "r.toml", "stages": stages });
    write(home.path(), "lineage.json", &lineage.to_string());
    for stage in stages {
        let directory = home.path().join(stage["directory"].as_str().unwrap());
        write(&directory, "stage.json", &stage.to_string());
    }
    home
}

fn step(step: u64, loss: f64) -> String {
    let line = json!({ "step": step, "loss": loss, "losses": { "forward_kl.0": loss, "cross_entropy.1": loss },
        "learning_rate": 1e-4, "gradient_norm": 2.0, "tokens": 64, "supervised_tokens": 60, "seconds": 0.5 });
    format!("{line}\n")
}

fn seen(text: &str) -> String {
    let packing = datasets::packing::PackingReport::default();
    json!({
        "pairs": false, "sequence_length": 32, "batches_per_epoch": 3, "supervised_tokens": 5, "without_targets": 0,
        "equal_pairs": 0, "empty_pairs": 0, "packing": packing,
        "samples": [{ "part": 0, "number": 0, "tokens": 9, "fits": 9, "splittable": true, "shown": 9,
            "runs": [{ "text": text, "learned": false }, { "text": text, "learned": true }] }],
    })
    .to_string()
}

fn rendered(home: &tempfile::TempDir) -> String {
    let text = render(&[RunFiles::read(home.path()).unwrap()]).unwrap();
    assert!(text.len() <= MOST_BYTES, "{}", text.len());
    text
}

#[test]
fn nothing_from_data_is_markup() {
    let home = run_of(&[
        described(1, "sft", BAD),
        described(2, "eval", BAD),
        described(3, "generate", BAD),
    ]);
    let sft = home.path().join("sft-000000000001");
    write(
        &sft,
        "metrics.jsonl",
        &format!(
            "{}{{\"step\":1,\"{}\":2}}\n",
            step(1, 2.0),
            BAD.replace('"', "'")
        ),
    );
    write(&sft, "seen.json", &seen(BAD));
    let sample =
        json!({ "step": 1, "prompt": BAD, "text": BAD, "tokens": 3, "finish_reason": BAD });
    write(&sft, "samples.jsonl", &format!("{sample}\n"));
    let scores = json!({ "task": BAD, "data": BAD, "rows": [{ "model": BAD, "parameters": 1, "tokens": 2, "bytes": 3,
        "nll_sum": 1.0, "nll": 1.0, "perplexity": 2.0, "bits_per_byte": 1.0, "standard_error": 0.1 }] });
    let eval = home.path().join("eval-000000000002");
    write(&eval, "scores.json", &scores.to_string());
    write(
        &eval,
        "records-1-<b>.jsonl",
        &format!("{}\n", json!({ BAD: BAD })),
    );
    let generate = home.path().join("generate-000000000003");
    let record = json!({ "messages": [{ "role": BAD, "content": BAD }] });
    write(&generate, "data.jsonl", &format!("{record}\n"));
    let ledger = json!({ "all_runs": { "requests": 1 }, "last_run": { "from_the_store": BAD, "outcome": { "dropped": { BAD: 1 } } } });
    write(&generate, "ledger.json", &ledger.to_string());
    let text = rendered(&home);
    assert!(text.matches("&lt;script&gt;").count() > 15, "{text}");
    for markup in ["<script", "<b>", "\" onload"] {
        assert!(!text.contains(markup), "{markup}");
    }
}

#[test]
fn a_long_run_is_thinned_and_its_peak_stays() {
    let home = run_of(&[described(1, "distill", "student")]);
    let stage = home.path().join("distill-000000000001");
    let mut lines = String::new();
    for number in 1..=100_000 {
        let loss = if number == 77_777 {
            55.5
        } else {
            2.0 + (number as f64).sin()
        };
        lines += &step(number, loss);
        if number % 1000 == 0 {
            let _ = writeln!(
                lines,
                "{}",
                json!({ "step": number, "heldout_nll": 3.0, "heldout_tokens": 9 })
            );
        }
    }
    lines += "{\"step\": 100001, \"lo";
    write(&stage, "metrics.jsonl", &lines);
    let sample = json!({ "step": 1, "prompt": "<&\"'/>".repeat(200_000), "text": "", "tokens": 1, "finish_reason": "length" });
    write(&stage, "samples.jsonl", &format!("{sample}\n{sample}\n"));
    write(&stage, "seen.json", &seen(&"<&\"'/>".repeat(500_000)));
    let text = rendered(&home);
    assert!(text.contains("100000") && text.contains("1 line of metrics.jsonl"));
    // What the greatest value gives an axis.
    assert!(text.contains(">40<"), "the peak is lost");
}

#[test]
fn a_run_of_very_many_stages_still_fits() {
    let stages: Vec<Value> = (1..=300)
        .map(|n| described(n, "sft", &"x".repeat(2000)))
        .collect();
    let home = run_of(&stages);
    for stage in &stages {
        let directory = home.path().join(stage["directory"].as_str().unwrap());
        let lines: String = (1..=150).map(|n| step(n, 1.0 + (n as f64).sin())).collect();
        write(&directory, "metrics.jsonl", &lines);
        write(&directory, "seen.json", &seen(&"/".repeat(3000)));
    }
    rendered(&home);
}

#[test]
fn what_is_damaged_is_said() {
    let home = run_of(&[described(1, "eval", "scores"), described(2, "sft", "tuned")]);
    write(
        &home.path().join("eval-000000000001"),
        "scores.json",
        "{\"task\":",
    );
    fs::remove_dir_all(home.path().join("sft-000000000002")).unwrap();
    let text = rendered(&home);
    assert!(
        text.contains("scores.json of 1 eval → scores cannot be read"),
        "{text}"
    );
    assert!(text.contains("2 sft → tuned has not begun"));
}

#[test]
fn what_was_planned_stands_beside_what_it_took() {
    let stage = described(1, "sft", "student");
    let home = run_of(std::slice::from_ref(&stage));
    let plan = json!({ "stages": [
        { "digest": stage["digest"], "plan": { "memory": { "total": 1000 << 20 }, "seconds": 10.0 },
          "actual": { "peak_bytes": 1100 << 20, "seconds": 9.0, "step_seconds": 0.25 } },
        { "digest": "gone", "plan": {}, "actual": null },
    ]});
    write(home.path(), "plan.json", &plan.to_string());
    let text = rendered(&home);
    for part in ["Plan against actual", "+10 %", "-10 %", "0.25 s"] {
        assert!(text.contains(part), "{part}");
    }
}

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
    assert!(
        text.contains("100000")
            && text.contains(
                "metrics.jsonl of 1 distill → student cannot be read: the curves lack them"
            )
    );
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

/// The notices of the report, which is shown whatever is wrong.
fn notices(home: &tempfile::TempDir) -> Vec<String> {
    rendered(home);
    let limits = Limits::falling().next().unwrap();
    RunFiles::read(home.path()).unwrap().notices(&limits)
}

#[track_caller]
fn assert_says(notices: &[String], start: &str, end: &str) {
    let found = notices
        .iter()
        .any(|notice| notice.contains(start) && notice.ends_with(end));
    assert!(found, "{start} … {end}: {notices:#?}");
}

#[test]
fn what_a_finished_stage_has_lost_is_said() {
    let kinds = [
        ("eval", "scores.json", "its scores"),
        ("quantize", "scores.json", "its bits, bytes and losses"),
        ("sft", "metrics.jsonl", "its curves, losses and speed"),
        (
            "distill",
            "seen.json",
            "how its samples became rows, and what it learned from",
        ),
        (
            "filter",
            "counts.json",
            "how many records it dropped, and why",
        ),
        (
            "rate",
            "counts.json",
            "how many answers were rated, and how",
        ),
        ("judge", "counts.json", "its verdicts"),
        (
            "code_quality",
            "forest.json",
            "how well its forest knows labels",
        ),
        ("generate", "ledger.json", "what was asked and what it cost"),
        ("exercises", "data.jsonl", "its records"),
    ];
    let stages: Vec<Value> = (kinds.iter().enumerate())
        .map(|(i, (kind, _, _))| described(i + 1, kind, "it"))
        .collect();
    let home = run_of(&stages);
    let said = notices(&home);
    for (i, (kind, file, lacks)) in kinds.iter().enumerate() {
        let number = i + 1;
        let start = format!("{kind}-{number:012}/{file} of {number} {kind} → it is missing");
        assert_says(&said, &start, &format!(": the report lacks {lacks}"));
    }
    // What is there, but no file of its kind, or nothing that can be read.
    for (i, (kind, file, _)) in kinds.iter().enumerate() {
        let directory = home.path().join(format!("{kind}-{:012}", i + 1));
        match i % 2 {
            _ if *file == "data.jsonl" => continue,
            0 => write(&directory, file, "[]\n"),
            _ => fs::create_dir(directory.join(file)).unwrap(),
        }
    }
    let said = notices(&home);
    for (i, (kind, file, lacks)) in kinds.iter().enumerate() {
        if *file == "data.jsonl" || *kind == "generate" {
            continue;
        }
        let number = i + 1;
        let start = format!("{kind}-{number:012}/{file} of {number} {kind} → it cannot be read (");
        assert_says(&said, &start, &format!(": the report lacks {lacks}"));
    }
}

#[test]
fn a_stage_that_is_not_done_lacks_nothing_but_what_is_broken() {
    let home = run_of(&[described(1, "sft", "tuned"), described(2, "eval", "scores")]);
    let [sft, eval] = ["sft-000000000001", "eval-000000000002"].map(|name| home.path().join(name));
    for directory in [&sft, &eval] {
        fs::remove_file(directory.join("stage.json")).unwrap();
    }
    write(&sft, "metrics.jsonl", "no step\n");
    write(&eval, "scores.json.partial", "");
    let said = notices(&home);
    assert_says(
        &said,
        "metrics.jsonl of 1 sft → tuned cannot be read (there is no step in it)",
        "speed",
    );
    let of_eval = said.iter().filter(|notice| notice.contains("2 eval"));
    assert_eq!(of_eval.count(), 1, "{said:#?}");
}

#[test]
fn what_training_has_seen_is_shown_without_its_metrics() {
    let home = run_of(&[described(1, "sft", "tuned")]);
    write(
        &home.path().join("sft-000000000001"),
        "seen.json",
        &seen("a text"),
    );
    let text = rendered(&home);
    for part in [
        "a text",
        "tokens learned",
        "metrics.jsonl of 1 sft → tuned is missing",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn a_broken_stage_is_said_and_the_others_are_shown() {
    let home = run_of(&[described(1, "sft", "tuned"), described(2, "eval", "scores")]);
    write(
        &home.path().join("eval-000000000002"),
        "stage.json",
        "{\"stage\": 2,",
    );
    let said = notices(&home);
    assert_says(
        &said,
        "eval-000000000002/stage.json cannot be read (EOF",
        "known of 2 eval → scores from elsewhere",
    );
    write(home.path(), "lineage.json", "");
    let said = notices(&home);
    assert_says(
        &said,
        "lineage.json cannot be read (EOF",
        "has only stages that are done",
    );
    assert_says(
        &said,
        "eval-000000000002/stage.json cannot be read (EOF",
        "the report lacks this stage",
    );
    assert!(rendered(&home).contains("1 of 1 done"));
    // Where nothing is left, what is wrong is in the error.
    write(&home.path().join("sft-000000000001"), "stage.json", "[]");
    let error = RunFiles::read(home.path()).err().unwrap().to_string();
    for part in [
        "there is no run in",
        "lineage.json cannot be read",
        "sft-000000000001/stage.json",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn the_records_of_a_run_are_missing_or_broken() {
    let stage = described(1, "eval", "scores");
    let home = run_of(std::slice::from_ref(&stage));
    assert_says(
        &notices(&home),
        "run.json is missing: the report lacks recipe",
        "done again",
    );
    write(home.path(), "run.json", "{}");
    write(home.path(), "plan.json", "{}");
    let said = notices(&home);
    assert_says(
        &said,
        "run.json cannot be read (missing field",
        "done again",
    );
    assert_says(
        &said,
        "plan.json cannot be read (missing field",
        "lacks plan against actual",
    );
    let record = json!({ "recipe": "r.toml", "set": [], "written": "", "as_run": "seed = 7", "seed": 7, "started": 1,
        "machine": { "version": "0.1.0", "device": "cpu", "threads": 2 }, "ended": "finished", "stages": [{}] });
    write(home.path(), "run.json", &record.to_string());
    let said = notices(&home);
    assert_says(
        &said,
        "the stages in run.json cannot be read (missing field",
        "those of lineage.json",
    );
    assert!(rendered(&home).contains("seed = 7"));
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

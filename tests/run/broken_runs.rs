//! Runs that go wrong on the way, and checkpoints that somebody else has touched.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, steps};
use crate::weights::digest;

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "sft"
model = "start"
data = "train"
optimizer = { kind = "adamw", lr = 1e-3 }
schedule = { kind = "constant" }
steps = 40
sequence_length = 32
tokens_per_step = 64
checkpoint_every = 1
as = "tuned"
"#;

fn home(from: &str, to: &str) -> Home {
    let home = Home::new();
    assert!(STAGES.contains(from));
    home.write(RECIPE, STAGES.replace(from, to));
    home
}

fn checkpoints(stage: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(stage.join("checkpoints"));
    let paths = entries.map_or_else(|_| Vec::new(), |entries| entries.collect());
    let mut paths: Vec<PathBuf> = paths
        .into_iter()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

/// Interrupts the run after some steps, so that it leaves checkpoints.
fn interrupt(home: &Home) -> PathBuf {
    let mut run = home.spawn("runs");
    let has_checkpoints = || {
        home.stages("runs", "sft")
            .first()
            .is_some_and(|stage| checkpoints(stage).len() >= 2)
    };
    assert!(run.wait_until(has_checkpoints));
    run.signal(libc::SIGINT);
    let (status, text) = run.finish();
    assert_eq!(status.code(), Some(1), "{text}");
    home.stage("runs", "sft")
}

#[test]
fn a_diverged_run_stops_and_keeps_its_last_good_checkpoint() {
    // Large enough to overflow a product of two weights, and not a weight.
    let home = home("lr = 1e-3", "lr = 1e12");
    let first = assert_failure(
        &home.run(),
        1,
        &["stage 2 (sft): step ", "is not finite", "hint: "],
    );
    let stage = home.stage("runs", "sft");
    let done = steps(&stage);
    assert!(
        first.contains(&format!("step {}: ", done.len() + 1)),
        "{first}"
    );
    let last = checkpoints(&stage).pop().unwrap();
    let step = read_json(&last.join("state.json"))["step"]
        .as_u64()
        .unwrap();
    assert_eq!(Some(&step), done.last());
    assert!(
        first.contains(&format!("the checkpoint of step {step} is kept")),
        "{first}"
    );
    // From that checkpoint it meets the same end.
    assert_eq!(assert_failure(&home.run(), 1, &[]), first);
    assert_eq!(checkpoints(&stage).pop(), Some(last));
    assert!(!stage.join("model").exists() && !stage.join("stage.json").exists());
}

#[test]
fn a_run_that_diverges_before_its_first_checkpoint_claims_none() {
    let home = home("checkpoint_every = 1", "checkpoint_every = 30");
    home.write(
        RECIPE,
        fs::read_to_string(home.path(RECIPE))
            .unwrap()
            .replace("lr = 1e-3", "lr = 1e30"),
    );
    let error = assert_failure(&home.run(), 1, &["is not finite", "hint: "]);
    assert!(!error.contains("is kept"), "{error}");
    assert_eq!(checkpoints(&home.stage("runs", "sft")), [] as [PathBuf; 0]);
}

#[test]
fn weights_that_the_last_step_ruined_are_not_a_result() {
    // 1e39 is no f32: the first step leaves infinite weights behind, and no second step would notice.
    let home = home("lr = 1e-3", "lr = 1e39");
    home.write(
        RECIPE,
        fs::read_to_string(home.path(RECIPE))
            .unwrap()
            .replace("steps = 40", "steps = 1"),
    );
    assert_failure(&home.run(), 1, &["step 1: the weight ", "is not finite"]);
    let stage = home.stage("runs", "sft");
    assert!(!stage.join("stage.json").exists());
    assert_eq!(checkpoints(&stage), [] as [PathBuf; 0]);
}

#[test]
fn a_checkpoint_of_another_recipe_is_not_continued() {
    let home = home("steps = 40", "steps = 400");
    let stage = interrupt(&home);
    let last = checkpoints(&stage).pop().unwrap().join("state.json");
    let mut state = read_json(&last);
    state["stage_digest"] = json!("0".repeat(64));
    fs::write(&last, state.to_string()).unwrap();
    let parts = [
        "belongs to another recipe",
        "hint: run with another --out, or remove the directory",
    ];
    assert_failure(&home.run(), 1, &parts);
    assert_eq!(read_json(&last), state);
}

#[test]
fn a_cut_off_checkpoint_is_named_and_the_one_before_it_serves() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    let reference = digest(&home.stage("undisturbed", "sft").join("model"));
    let stage = interrupt(&home);
    let last = checkpoints(&stage).pop().unwrap();
    for (file, length) in [
        ("weights.safetensors", 1000),
        ("optimizer.safetensors", 0),
        ("state.json", 10),
    ] {
        let path = last.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..length]).unwrap();
        let hint = format!(
            "hint: remove {} to go on from the checkpoint before it",
            last.strip_prefix(home.path("")).unwrap().display()
        );
        assert_failure(&home.run(), 1, &["stage 2 (sft): ", file, &hint]);
        fs::write(&path, whole).unwrap();
    }
    fs::remove_dir_all(&last).unwrap();
    let output = home.run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("going on after step "),
        "{}",
        stderr(&output)
    );
    assert_eq!(digest(&stage.join("model")), reference);
}

#[test]
fn two_runs_in_one_place_do_not_meet() {
    let home = home("steps = 40", "steps = 4000");
    let mut first = home.spawn("runs");
    let trains = || {
        home.stages("runs", "sft")
            .first()
            .is_some_and(|s| s.join("metrics.jsonl").exists())
    };
    assert!(first.wait_until(trains));
    let second = home.run();
    assert_failure(
        &second,
        1,
        &[
            "another run of this recipe is under way in runs/r",
            "hint: wait for it",
        ],
    );
    assert!(first.ended().is_none());
    first.signal(libc::SIGINT);
    assert_eq!(first.finish().0.code(), Some(1));
}

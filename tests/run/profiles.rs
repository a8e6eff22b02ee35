//! `--profile`: what it writes adds up, and nothing else changes.

use std::time::Instant;

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_success, read_json, stderr, stdout};
use crate::models::random;
use crate::weights::digest;

const WIDTH: usize = 96;
const VOCABULARY: usize = 4096;
const STEPS: usize = 6;

const STAGES: &str = r#"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "distill"
student = "student"
teacher = "teacher"
data = "train"
heldout = "heldout"
loss = [{ kind = "forward_kl", temperature = 2.0 }, { kind = "cross_entropy" }]
steps = 6
sequence_length = 64
tokens_per_step = 512
as = "result"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["teacher", "result"]
data = "heldout"
window = 64
"#;

fn home() -> Home {
    let home = Home::new();
    let models = random("teacher", WIDTH, VOCABULARY, "tiny", 1)
        + &random("student", WIDTH, VOCABULARY, "tiny", 2);
    home.write(
        RECIPE,
        format!("seed = 7\n[models.tiny]\nsource = \"tiny\"\n{models}{STAGES}"),
    );
    home
}

fn seconds(profile: &Value, list: &str) -> f64 {
    let parts = profile[list].as_array().unwrap();
    parts
        .iter()
        .map(|part| part["seconds"].as_f64().unwrap())
        .sum()
}

fn assert_adds_up(profile: &Value, wall: f64) {
    let steps = profile["seconds"].as_f64().unwrap();
    let stage = profile["stage_seconds"].as_f64().unwrap();
    let operations = seconds(profile, "operations");
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * b, "{a} of {b}");
    close(operations + seconds(profile, "elsewhere"), steps);
    close(seconds(profile, "phases"), steps);
    close(steps + seconds(profile, "outside"), stage);
    assert!(stage <= wall, "{stage} of {wall}");
    let covered = operations / steps;
    println!("{:.1} % covered", covered * 100.0);
    assert!(covered >= 0.8, "{covered}");
    for operation in profile["operations"].as_array().unwrap() {
        for key in ["calls", "bytes"] {
            assert!(operation[key].as_u64().unwrap() > 0, "{operation}");
        }
        let bytes = operation["bytes"].as_f64().unwrap() / 1e9;
        let rate = operation["gigabytes_per_second"].as_f64().unwrap();
        close(rate * operation["seconds"].as_f64().unwrap(), bytes);
    }
}

fn operation<'p>(profile: &'p Value, phase: &str, name: &str) -> &'p Value {
    let all = profile["operations"].as_array().unwrap();
    let found = all
        .iter()
        .find(|row| row["phase"] == phase && row["operation"] == name);
    found.unwrap_or_else(|| panic!("no {phase}, {name} in {all:?}"))
}

#[test]
fn a_profile_adds_up_and_leaves_the_results_as_they_are() {
    let home = home();
    assert_success(&home.distill(&["run", RECIPE, "--out", "plain"]));
    let clock = Instant::now();
    let profiled = home.distill(&["run", RECIPE, "--profile"]);
    let wall = clock.elapsed().as_secs_f64();
    assert_success(&profiled);
    println!("{}", stderr(&profiled));

    for kind in ["distill", "eval"] {
        let (with, without) = (home.stage("runs", kind), home.stage("plain", kind));
        assert_eq!(with.file_name(), without.file_name(), "the same digest");
        assert!(!without.join("profile.json").exists());
        assert_adds_up(&read_json(&with.join("profile.json")), wall);
    }
    let (with, without) = (
        home.stage("runs", "distill"),
        home.stage("plain", "distill"),
    );
    assert_eq!(digest(&with.join("model")), digest(&without.join("model")));
    let scores = |out: &str| read_json(&home.stage(out, "eval").join("scores.json"));
    assert_eq!(scores("runs"), scores("plain"));

    let profile = read_json(&with.join("profile.json"));
    let steps = STEPS - 2;
    assert_eq!(
        (&profile["warm_up"], &profile["steps"]),
        (&2.into(), &steps.into())
    );
    // Seven products a block: q and o, k and v of half the heads, three of the double width.
    let (microbatches, blocks, tokens) = (2, 3, 512);
    let linear = operation(&profile, "student forward", "linear forward");
    assert_eq!(linear["calls"], steps * microbatches * blocks * 7);
    let weights = blocks * WIDTH * WIDTH * (2 + 1 + 3 * 2);
    assert_eq!(linear["flops"], steps * 2 * tokens * weights);
    assert_eq!(
        operation(&profile, "student backward", "linear backward")["flops"],
        linear["flops"]
    );
    assert_eq!(
        operation(&profile, "teacher", "linear forward")["flops"],
        linear["flops"]
    );
    for part in ["held-out loss", "checkpoint", "warm-up"] {
        let all = profile["outside"].as_array().unwrap();
        assert!(all.iter().any(|row| row["phase"] == part), "{part}");
    }
    for part in [
        "profile of distill → result: one step of ",
        "profile of eval: one batch of ",
        " elsewhere ",
        "(step 3 to 6; ",
    ] {
        assert!(stderr(&profiled).contains(part), "no {part:?}");
    }
    assert!(!stdout(&profiled).contains("elsewhere"));
}

#[test]
fn the_trace_holds_the_steps_after_the_warm_up() {
    let home = home();
    assert_success(&home.distill(&["run", RECIPE, "--profile"]));
    let trace = read_json(&home.stage("runs", "distill").join("trace.json"));
    let events = trace["traceEvents"].as_array().unwrap();
    let number = |event: &Value, key: &str| event[key].as_f64().unwrap();
    let mut inside = Vec::new();
    for event in events {
        assert_eq!(event["ph"], "X");
        assert!(number(event, "ts") > 0.0 && number(event, "dur") >= 0.0);
        let counted = event["args"]["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0);
        assert_eq!(counted, event["cat"] == "operation", "{event}");
        match event["cat"].as_str() {
            Some("phase") => inside.push(event),
            Some("step") => {
                // Its phases have ended before it: one after another, inside it.
                let end = number(event, "ts") + number(event, "dur") + 0.01;
                let of_step = inside
                    .iter()
                    .filter(|phase| number(phase, "ts") >= number(event, "ts"));
                let mut last = number(event, "ts");
                for phase in of_step {
                    assert!(number(phase, "ts") >= last - 0.01);
                    last = number(phase, "ts") + number(phase, "dur");
                    assert!(last <= end);
                }
                assert!(inside.len() > 5);
                inside.clear();
            }
            _ => {}
        }
    }
    let steps = events.iter().filter(|event| event["cat"] == "step");
    assert_eq!(steps.count(), STEPS - 2);

    let again = home.distill(&["run", RECIPE, "--profile"]);
    assert_success(&again);
    assert!(
        stderr(&again).contains("nothing to profile"),
        "{}",
        stderr(&again)
    );
}

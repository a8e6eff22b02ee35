//! A teacher behind a server, asked batch by batch: it teaches what the model itself does, also on what the student writes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::capture_remote::Oracle;
use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, read_json};
use crate::models::characters;
use crate::server::{Reply, Server};
use crate::weights::digest;

/// A student of `teacher`, which writes half of its sequences itself if `settings` say so.
fn recipe(server: &Server, teacher: &str, settings: &str) -> String {
    format!(
        r#"
[models.tiny]
source = "tiny"
[models.served]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], retries = 1, backoff_seconds = 0.01 }}
tokenizer = "tiny"
[data.train]
source = "train.jsonl"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = {teacher}
data = "train"
loss = [{{ kind = "forward_kl" }}]
steps = 4
sequence_length = 64
tokens_per_step = 256
{settings}
"#,
        server.endpoint()
    )
}

fn home() -> Home {
    let home = Home::new();
    let line = |i: usize| {
        let prompt = format!("question {i} of many: ");
        json!({ "prompt": prompt, "completion": "an answer ".repeat(1 + i % 3) }).to_string()
    };
    let lines: Vec<String> = (0..60).map(line).collect();
    home.write("train.jsonl", lines.join("\n"));
    home
}

fn losses(stage: &Path) -> Vec<f64> {
    let lines = metrics(stage).into_iter();
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn a_server_teaches_what_the_model_itself_does() {
    let home = home();
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| Reply::json(oracle.answer(hit)));
    // With all tokens listed nothing is left to a tail.
    let all = format!("{{ remote = \"served\", k = {} }}", characters().len());
    for (name, settings) in [
        ("data", ""),
        ("written", "on_policy = { share = 0.5, max_new_tokens = 8 }"),
    ] {
        home.write(RECIPE, recipe(&server, &all, settings));
        let asked = |out: &str| assert_success(&home.distill(&["run", RECIPE, "--out", out]));
        asked(name);
        let of_server = home.stage(name, "distill");
        home.write(RECIPE, recipe(&server, "\"tiny\"", settings));
        let local = format!("{name}-local");
        asked(&local);
        let (ours, theirs) = (losses(&of_server), losses(&home.stage(&local, "distill")));
        assert_eq!(ours.len(), 4);
        for (a, b) in ours.iter().zip(&theirs) {
            assert!(
                (a - b).abs() < 2e-3 * b.abs() + 2e-4,
                "{name}: {ours:?} {theirs:?}"
            );
        }
        // Again: every answer is there.
        let before = server.hits().len();
        home.write(RECIPE, recipe(&server, &all, settings));
        let again = format!("{name}-again");
        asked(&again);
        assert_eq!(server.hits().len(), before, "{name}");
        let same = home.stage(&again, "distill");
        assert_eq!(
            digest(&same.join("model")),
            digest(&of_server.join("model")),
            "{name}"
        );
        let ledger = read_json(&same.join("ledger.json"));
        assert!(
            ledger["last_run"]["from_the_store"].as_u64() > Some(0),
            "{ledger}"
        );
    }
}

#[test]
fn a_run_that_is_stopped_asks_no_more() {
    let home = home();
    let oracle = Oracle::new(&home);
    let slow = Arc::new(AtomicBool::new(true));
    let is_slow = slow.clone();
    let server = Server::start(move |hit| {
        if is_slow.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(400));
        }
        Reply::json(oracle.answer(hit))
    });
    let recipe = recipe(&server, "{ remote = \"served\", k = 8 }", "");
    let one_by_one = recipe.replace("retries = 1", "retries = 1, concurrency = 1");
    home.write(RECIPE, one_by_one);
    let mut run = home.spawn("runs");
    assert!(run.wait_until(|| server.hits().len() >= 2));
    run.signal(libc::SIGINT);
    let (status, text) = run.finish();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("stopped in stage 2 after step 0"), "{text}");
    // A step has more sequences than these.
    let asked = server.hits().len();
    assert!(asked <= 4, "{asked}");
    slow.store(false, Ordering::Relaxed);
    assert_success(&home.run());
    assert!(server.hits().len() > asked);
}

#[test]
fn what_a_server_cannot_teach_is_told_beforehand() {
    let home = home();
    let server = Server::start(|_| Reply::refused(400, "unknown parameter `prompt_logprobs`"));
    let of_server = recipe(&server, "{ remote = \"served\" }", "");
    for (from, to, says) in [
        (
            "kind = \"forward_kl\"",
            "kind = \"jsd\"",
            "`jsd` is not defined on what a server tells",
        ),
        (
            "kind = \"forward_kl\"",
            "kind = \"forward_kl\", temperature = 2.0",
            "a server tells probabilities at temperature 1",
        ),
        (
            "tokenizer = \"tiny\"",
            "",
            "needs a tokenizer here, with the ids of its own",
        ),
        (
            "remote = \"served\"",
            "remote = \"served\", shards = \"x\"",
            "a teacher is { shards = \"NAME\" }, or { remote = \"NAME\" }",
        ),
    ] {
        home.write(RECIPE, of_server.replace(from, to));
        assert_failure(&home.distill(&["check", RECIPE]), 2, &[says]);
    }
    home.write(RECIPE, &of_server);
    assert_failure(&home.run(), 1, &["neither `prompt_logprobs` nor `echo`"]);
}

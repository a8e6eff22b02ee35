//! Kills and interruptions: what was answered is not asked again.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{ledger, recipe, records};
use crate::home::{Home, RECIPE, assert_success};
use crate::server::{Hit, Reply, Server, chat};

#[test]
fn a_killed_run_asks_again_only_what_was_under_way() {
    let home = Home::new();
    let slow = |hit: &Hit| {
        std::thread::sleep(Duration::from_millis(20));
        Reply::json(chat(hit))
    };
    let server = Server::start(slow);
    recipe(
        &home,
        &server,
        ", concurrency = 8",
        200,
        "candidates = 2\nsampling = { temperature = 0.8 }",
    );
    for at_least in [30, 90, 150] {
        let mut run = home.spawn("runs");
        assert!(run.wait_until(|| server.answered().len() >= at_least));
        run.signal(libc::SIGKILL);
        run.finish();
    }
    assert_success(&home.run());
    let answered = server.answered();
    assert!(answered.len() <= 200 + 3 * 8, "{}", answered.len());
    assert_eq!(answered.iter().collect::<BTreeSet<_>>().len(), 200);
    let records = records(&home, "runs");
    assert_eq!(records.len(), 400);
    let candidates: Vec<&Value> = records.iter().map(|r| &r["lineage"]["candidate"]).collect();
    assert_eq!(&candidates[..4], [0, 1, 0, 1]);
    // What was sent and never came back is on the account.
    let spent = &ledger(&home)["all_runs"];
    assert_eq!(spent["answers"], 200);
    assert!(spent["requests"].as_i64().unwrap() > 200, "{spent}");
    assert!(spent["possibly_tokens"].as_i64().unwrap() > 0, "{spent}");

    // An edited recipe pays for what is new only.
    let before = server.hits().len();
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    home.write(
        RECIPE,
        text.replace("chunk = \"lines\"", "chunk = \"lines\"\nlimit = 150"),
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "fewer"]));
    assert_eq!(server.hits().len(), before);
}

#[test]
fn an_interrupted_run_keeps_what_was_under_way() {
    let home = Home::new();
    let slow = |hit: &Hit| {
        std::thread::sleep(Duration::from_millis(50));
        Reply::json(chat(hit))
    };
    let server = Server::start(slow);
    recipe(&home, &server, ", concurrency = 4", 60, "");
    let mut run = home.spawn("runs");
    assert!(run.wait_until(|| server.answered().len() >= 10));
    run.signal(libc::SIGINT);
    let (status, said) = run.finish();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("stopped in stage 1 after"), "{said}");
    assert!(server.answered().len() < 40);
    assert_success(&home.run());
    assert_eq!(server.hits().len(), 60);
}

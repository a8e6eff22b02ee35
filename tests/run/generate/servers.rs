//! Servers that misbehave, refuse, or are sick.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{ledger, recipe, records};
use crate::home::{Home, RECIPE, assert_failure, assert_success, stderr, stdout};
use crate::server::{Hit, Reply, Server, chat, question, streamed};

/// About one in ten each: too many, an error, silence, a cut body, no JSON.
fn moody(hit: &Hit) -> Reply {
    let body = || chat(hit).to_string();
    match hit.number.wrapping_mul(2_654_435_761) >> 8 & 1023 {
        0..100 => Reply::Text(429, "Retry-After: 0.05\r\n", "{}".into()),
        100..200 => Reply::refused(500, "a bad day"),
        200..300 => Reply::Hang(Duration::from_secs(2)),
        300..400 => Reply::Cut(body()),
        400..500 => Reply::Text(200, "", body()[..40].to_string()),
        _ => Reply::json(chat(hit)),
    }
}

#[test]
fn a_server_that_misbehaves_answers_every_prompt_once() {
    let home = Home::new();
    let server = Server::start(moody);
    let source = ", concurrency = 32, timeout_seconds = 1, retries = 40, backoff_seconds = 0.02";
    recipe(&home, &server, source, 1000, "");
    let output = home.run();
    assert_success(&output);
    println!("{}", stderr(&output));

    let mut answered = server.answered();
    assert_eq!(answered.len(), 1000);
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), 1000);
    let records = records(&home, "runs");
    assert_eq!(records.len(), 1000);
    for (number, record) in records.iter().enumerate() {
        let [asked, said] = [0, 1].map(|at| record["messages"][at]["content"].as_str().unwrap());
        assert_eq!(asked, format!("question {number}?"));
        assert_eq!(said, format!("answer 7 to question {number}?"));
        assert_eq!(record["lineage"]["seed"], number);
        assert_eq!(record["lineage"]["model"], "m");
    }
    let spent = &ledger(&home)["all_runs"];
    let hits = server.hits().len() as i64;
    // An attempt whose connection was refused or cut may have reached the server or not.
    assert_eq!(spent["answers"], 1000);
    assert_eq!(spent["input_tokens"], 10_000);
    let (requests, retries) = (
        spent["requests"].as_i64().unwrap(),
        spent["retries"].as_i64().unwrap(),
    );
    assert!(
        requests >= hits && requests - hits < 20,
        "{requests} {hits}"
    );
    assert_eq!(requests - retries, 1000);
    assert!(spent["possibly_tokens"].as_i64().unwrap() > 0);

    // Another run asks nothing.
    assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
    assert_eq!(server.hits().len() as i64, hits);
    let file = |out| fs::read(home.stage(out, "generate").join("data.jsonl")).unwrap();
    assert_eq!(file("runs"), file("again"));
}

#[test]
fn prompts_that_a_server_refuses_are_counted_and_dropped() {
    let home = Home::new();
    let server = Server::start(|hit| match question(hit).as_str() {
        "question 1?" => Reply::refused(400, "too long"),
        "question 2?" => {
            let mut answer = chat(hit);
            answer["choices"][0]["message"]["content"] = Value::Null;
            Reply::json(answer)
        }
        _ => Reply::json(chat(hit)),
    });
    recipe(&home, &server, "", 5, "");
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    assert!(
        shown.contains("3 conversations of 5 prompts; 1 dropped whose prompt the teacher refuses"),
        "{shown}"
    );
    assert!(
        shown.contains("too long") && shown.contains("1 dropped with an empty answer"),
        "{shown}"
    );
    assert_eq!(server.hits().len(), 5);
}

#[test]
fn a_server_that_gives_few_answers_at_a_time_is_asked_for_few() {
    let home = Home::new();
    // As llama.cpp does with two slots.
    let server = Server::start(|hit| match hit.body["n"].as_u64() {
        Some(3..) => Reply::refused(400, "Value must be between 1 <= value <= 2"),
        _ => Reply::json(chat(hit)),
    });
    let drawn = "candidates = 5\nsampling = { temperature = 0.8 }";
    recipe(&home, &server, "", 2, drawn);
    assert_success(&home.run());
    let records = records(&home, "runs");
    let candidates: Vec<&Value> = records.iter().map(|r| &r["lineage"]["candidate"]).collect();
    assert_eq!(candidates, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    // Five are too many for either prompt; then two, two and one.
    assert_eq!(server.hits().len(), 8);
}

/// However many of those that may be missing come last.
#[test]
fn answers_that_may_be_missing_end_no_stage() {
    let home = Home::new();
    let server = Server::start(|hit| match question(hit).as_str() {
        "question 0?" => Reply::json(chat(hit)),
        _ => Reply::refused(500, "a bad day"),
    });
    let source = ", concurrency = 1, retries = 0, backoff_seconds = 0.01";
    recipe(&home, &server, source, 8, "allow_failed = 7");
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    assert!(shown.contains("7 dropped that got no answer"), "{shown}");
    let before = server.hits().len();
    recipe(&home, &server, source, 30, "allow_failed = 7");
    assert_failure(&home.run(), 1, &["8 prompts in a row"]);
    assert_eq!(server.hits().len(), before + 8);
}

#[test]
fn a_sick_endpoint_is_left_out() {
    let home = Home::new();
    let (well, sick) = (
        Server::good(),
        Server::start(|_| Reply::refused(503, "sick")),
    );
    recipe(
        &home,
        &well,
        ", concurrency = 4, backoff_seconds = 0.02",
        100,
        "",
    );
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    let both = format!("\"{}\", \"{}\"", sick.endpoint(), well.endpoint());
    home.write(
        RECIPE,
        text.replace(&format!("\"{}\"", well.endpoint()), &both),
    );
    assert_success(&home.run());
    assert_eq!(well.hits().len(), 100);
    assert!(sick.hits().len() < 10, "{}", sick.hits().len());
}

#[test]
fn many_requests_under_way_take_little_memory() {
    let home = Home::new();
    let server = Server::start(|hit| {
        std::thread::sleep(Duration::from_millis(100));
        Reply::Stream(streamed(hit))
    });
    recipe(
        &home,
        &server,
        ", concurrency = 256, stream = true",
        1500,
        "",
    );
    let output = home.run();
    assert_success(&output);
    assert_eq!(records(&home, "runs").len(), 1500);
    let shown = stdout(&output);
    let line = shown.lines().find(|line| line.starts_with("took")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "MiB").unwrap();
    let mebibytes: f64 = words[at - 1].parse().unwrap();
    assert!(mebibytes < 190.0, "{line}");
}

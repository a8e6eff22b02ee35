//! Rates and budgets.

use super::{ledger, recipe, records};
use crate::home::{Home, RECIPE, assert_failure, assert_success};
use crate::server::{Reply, Server, chat};

#[test]
fn rates_and_patience_are_kept() {
    let home = Home::new();
    let server = Server::start(|hit| match hit.number {
        5 => Reply::Text(429, "Retry-After: 1\r\n", "{}".into()),
        _ => Reply::json(chat(hit)),
    });
    recipe(
        &home,
        &server,
        ", concurrency = 1, requests_per_minute = 1200",
        40,
        "",
    );
    assert_success(&home.run());
    let hits = server.hits();
    let seconds: Vec<f64> = (hits.iter())
        .map(|hit| hit.at.duration_since(hits[0].at).as_secs_f64())
        .collect();
    assert!(seconds[6] - seconds[5] >= 0.99, "{seconds:?}");
    // 20 a second: whichever second is looked at.
    for (at, start) in seconds.iter().enumerate() {
        let within = seconds[at..].iter().filter(|s| *s - start < 1.0).count();
        assert!(within <= 22, "{within} in a second: {seconds:?}");
    }
    assert!(seconds[40] >= 39.0 * 0.05, "{seconds:?}");
}

#[test]
fn tokens_are_paced() {
    let home = Home::new();
    let server = Server::good();
    // 20 tokens of every answer are counted: 30 of them are 600, which take 2 s at 300 a second.
    let source = ", concurrency = 8, tokens_per_minute = 18000";
    recipe(&home, &server, source, 31, "sampling = { max_tokens = 10 }");
    assert_success(&home.run());
    let hits = server.hits();
    let seconds = hits[30].at.duration_since(hits[0].at).as_secs_f64();
    assert!((1.0..6.0).contains(&seconds), "{seconds}");
}

#[test]
fn a_budget_stops_cleanly_and_a_larger_one_goes_on() {
    let home = Home::new();
    let server = Server::good();
    let stage = "sampling = { max_tokens = 10 }\nbudget = { dollars = 0.001, tokens = 600 }";
    recipe(
        &home,
        &server,
        ", concurrency = 4, price = { input = 1, output = 2 }",
        50,
        stage,
    );
    let parts = [
        "the budget of this stage is reached",
        "of 600 tokens and $0.0010",
        "raise `budget`",
    ];
    assert_failure(&home.run(), 1, &parts);
    let hits = server.hits().len();
    assert!((25..=30).contains(&hits), "{hits}");
    let spent = ledger(&home)["all_runs"].clone();
    assert_eq!(spent["answers"], hits);
    assert!((spent["dollars"].as_f64().unwrap() - hits as f64 * 3e-5).abs() < 1e-9);
    assert!(!home.stage("runs", "generate").join("stage.json").exists());
    // The same again: nothing more is spent.
    assert_failure(&home.run(), 1, &["the budget of this stage is reached"]);
    assert_eq!(server.hits().len(), hits);
    let larger = [
        "run",
        RECIPE,
        "--set",
        "stage.answers.budget.tokens=5000",
        "--set",
        "stage.answers.budget.dollars=1.0",
    ];
    assert_success(&home.distill(&larger));
    assert_eq!(server.hits().len(), 50);
    assert_eq!(records(&home, "runs").len(), 50);
}

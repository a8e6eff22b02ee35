//! What is wrong with a model, a stage or a server is told.

use std::fs;

use super::recipe;
use crate::home::{Home, RECIPE, assert_failure, assert_success};
use crate::server::{Reply, Server};

#[test]
fn what_is_wrong_is_told() {
    let home = Home::new();
    let good = Server::good();
    let run = |server: &Server, source: &str, stage: &str, code, parts: &[&str]| {
        recipe(&home, server, source, 3, stage);
        assert_failure(&home.run(), code, parts);
    };
    run(
        &good,
        ", key = { env = \"NO_SUCH_KEY\" }",
        "",
        1,
        &["`NO_SUCH_KEY` is not set", "hint: "],
    );
    run(
        &good,
        ", key = { file = \"none.txt\" }",
        "",
        1,
        &["`none.txt` cannot be read"],
    );
    let missing = Server::start(|_| Reply::refused(404, "The model `m` does not exist"));
    let parts = ["status 404: The model `m` does not exist", "check `model`"];
    run(&missing, "", "", 1, &parts);
    assert_eq!(missing.hits().len(), 3);
    let nonsense = Server::start(|_| Reply::Text(200, "", "<html>".into()));
    let quick = ", retries = 1, backoff_seconds = 0.01";
    let parts = [
        "3 of 3 prompts got no answer",
        "no answer after 2 attempts",
        "no JSON",
        "allow_failed = 3",
    ];
    let drawn = "candidates = 4\nsampling = { temperature = 0.8 }";
    run(&nonsense, quick, drawn, 1, &parts);
    let parts = ["cannot tell log-probabilities", "leave out `logprobs`"];
    run(&good, "", "logprobs = 3", 1, &parts);
    // They were paid for: without log-probabilities the answers are there.
    let hits = good.hits().len();
    recipe(&home, &good, "", 3, "");
    assert_success(&home.run());
    assert_eq!(good.hits().len(), 3.max(hits));
    for (source, stage, parts) in [
        (
            ", retires = 3",
            "",
            ["unknown key `retires`", "did you mean `retries`?"],
        ),
        (
            ", concurrency = 0",
            "",
            ["`concurrency` must lie between 1 and 10000", "r.toml:4"],
        ),
        (
            "",
            "budget = { dollars = 1.0 }",
            ["needs the model's `price`", "r.toml"],
        ),
        ("", "turns = 2", ["several `turns` need `user`", "r.toml"]),
        (
            "",
            "prompt = \"none.jinja\"",
            ["the prompt none.jinja", "r.toml:13:10"],
        ),
        (
            "",
            "[[stage]]\nkind = \"prune\"\nkeep_layers = [0]\nmodel = \"judge\"",
            ["`judge` is a remote model", "`generate`"],
        ),
        (
            "",
            "[[stage]]\nkind = \"prune\"\nkeep_layers = [0]\nmodel = \"answers\"",
            ["`answers` is data", "a model is wanted"],
        ),
    ] {
        run(&good, source, stage, 2, &parts);
    }
    home.write("bad.jinja", "{{ question }}");
    run(
        &good,
        "",
        "prompt = \"bad.jinja\"",
        2,
        &["unknown variable `question`"],
    );
}

#[test]
fn a_server_that_is_not_there_is_told_soon() {
    let home = Home::new();
    recipe(&home, &Server::good(), "", 3, "");
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    let start = text.find("http://").unwrap();
    let end = start + text[start..].find('"').unwrap();
    home.write(
        RECIPE,
        text.replace(&text[start..end], "http://127.0.0.1:9/v1"),
    );
    let parts = [
        "http://127.0.0.1:9/v1 cannot be reached",
        "refused",
        "check `endpoints`",
    ];
    assert_failure(&home.run(), 1, &parts);
}

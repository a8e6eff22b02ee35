//! `distill score` with a server.

use serde_json::Value;

use crate::home::{Home, assert_failure, assert_success, stdout};
use crate::server::{Reply, Server};

#[test]
fn given_texts_are_scored_where_the_server_can() {
    let home = Home::new();
    let logprob = |value: f64, token: &str| serde_json::json!({ "logprob": value, "rank": 1, "decoded_token": token });
    let vllm = Server::start(move |hit| {
        assert!(hit.path.ends_with("/v1/completions"), "{}", hit.path);
        let entries = serde_json::json!([null, { "5": logprob(-0.5, "b") }, { "9": logprob(-3.0, "c"), "6": logprob(-0.25, "d") }]);
        Reply::json(
            serde_json::json!({ "choices": [{ "text": "x", "prompt_logprobs": entries }], "usage": { "prompt_tokens": 3, "completion_tokens": 1 } }),
        )
    });
    let echo = Server::start(|hit| {
        if hit.body["echo"] != true {
            return Reply::refused(400, "unknown parameter `prompt_logprobs`");
        }
        Reply::json(
            serde_json::json!({ "choices": [{ "text": "a b", "logprobs": {
            "tokens": ["a", " b", "!"], "token_logprobs": [null, -1.5, -2.0], "top_logprobs": null } }] }),
        )
    });
    let neither =
        Server::start(|_| Reply::json(serde_json::json!({ "choices": [{ "text": "c" }] })));
    home.write("ids.json", "[4, 5, 6]");
    let score = |server: &Server, input: [&str; 2]| {
        let model = format!(
            "{{ kind = \"remote\", model = \"m\", endpoints = [\"{}\"] }}",
            server.endpoint()
        );
        home.distill(&["score", "--model", &model, input[0], input[1], "--json"])
    };
    let scores = |server: &Server, input| {
        let output = score(server, input);
        assert_success(&output);
        serde_json::from_str::<Value>(&stdout(&output)).unwrap()
    };
    let given = scores(&vllm, ["--ids", "ids.json"]);
    assert_eq!(given["ids"], serde_json::json!([4, 5, 6]));
    assert_eq!(given["logprobs"], serde_json::json!([-0.5, -0.25]));
    let given = scores(&echo, ["--text", "a b"]);
    assert_eq!(given["texts"], serde_json::json!(["a", " b"]));
    assert_eq!(given["logprobs"], serde_json::json!([-1.5]));
    let hits = echo.hits().len();
    scores(&echo, ["--text", "a b"]);
    assert_eq!(echo.hits().len(), hits, "scores are kept");
    let parts = [
        "neither `prompt_logprobs` nor `echo`",
        "hint: vLLM and SGLang can",
    ];
    assert_failure(&score(&neither, ["--text", "c d"]), 1, &parts);
    assert_eq!(neither.hits().len(), 2);
}

//! `chat` with a model behind a server.

use std::io::Write;
use std::process::Stdio;

use crate::home::{Home, assert_failure, stderr, stdout};
use crate::server::{Server, saying};

#[test]
fn a_remote_model_sees_the_whole_conversation() {
    let home = Home::new();
    let server = Server::start(|hit| {
        let count = hit.body["messages"].as_array().unwrap().len();
        saying(hit, &format!("heard {count}"))
    });
    let model = format!(
        r#"{{ kind = "remote", model = "m", endpoints = ["{}"], retries = 0 }}"#,
        server.endpoint()
    );
    let arguments = ["chat", "--model", &model, "--system", "Be brief."];
    let talk = |more: &[&str], lines: &str| {
        let mut command = home.command(&[&arguments[..], more].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = talk(&[], "one\ntwo\n/reset\nthree\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "heard 2\nheard 4\nheard 2\n");
    let hits = server.hits();
    let second = &hits[1].body["messages"];
    let said: Vec<&str> = (second.as_array().unwrap().iter())
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["Be brief.", "one", "heard 2", "two"]);
    assert_failure(
        &talk(&["--top-k", "4"], "one\n"),
        1,
        &["a remote model takes neither"],
    );
}

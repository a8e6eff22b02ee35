//! The stage `generate`: what remote and local teachers write.

mod errors;
mod key;
mod limits;
mod servers;
mod stopped;

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Reply, Server, chat, question};

/// `[models.judge]`, its `source` with these further keys, a data set of so many prompts, and a stage with these keys.
fn recipe(home: &Home, server: &Server, source: &str, prompts: usize, stage: &str) {
    let lines: Vec<String> = (0..prompts)
        .map(|number| format!("question {number}?"))
        .collect();
    home.write("seeds.txt", lines.join("\n"));
    home.write(
        RECIPE,
        format!(
            r#"
seed = 7
[models.judge]
source = {{ kind = "remote", model = "m", endpoints = ["{}"]{source} }}
[data.seeds]
source = "seeds.txt"
chunk = "lines"
[[stage]]
kind = "generate"
teacher = "judge"
prompts = "seeds"
as = "answers"
{stage}
"#,
            server.endpoint()
        ),
    );
}

fn records(home: &Home, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.stage(out, "generate").join("data.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn ledger(home: &Home) -> Value {
    read_json(&home.stage("runs", "generate").join("ledger.json"))
}

#[test]
fn equal_prompts_are_asked_once_even_after_a_failure() {
    let home = Home::new();
    let server = Server::start(|hit| match hit.number {
        0 => Reply::refused(400, "not now"),
        _ => {
            std::thread::sleep(Duration::from_millis(300));
            Reply::json(chat(hit))
        }
    });
    recipe(&home, &server, ", concurrency = 2", 1, "");
    home.write("seeds.txt", "the same?\nthe same?\nthe same?\nthe same?\n");
    assert_success(&home.run());
    assert_eq!(records(&home, "runs").len(), 3);
    assert_eq!(server.hits().len(), 2);
}

#[test]
fn several_turns_and_what_learns_from_them() {
    let home = Home::new();
    let server = Server::good();
    home.write("ask.jinja", "Once more: {{ prompt }}");
    home.write("user.jinja", "after {{ messages | length }} messages");
    let stage = r#"
prompt = "ask.jinja"
system = "Be brief."
turns = 2
user = "user.jinja"
candidates = 2
sampling = { temperature = 0.7, seed = 40 }
[models.tiny]
source = "tiny"
[[stage]]
kind = "sft"
model = "tiny"
data = "answers"
steps = 2
sequence_length = 64
tokens_per_step = 64
chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
"#;
    recipe(&home, &server, "", 4, stage);
    let checked = home.distill(&["check", RECIPE]);
    assert_success(&checked);
    assert!(stdout(&checked).contains("2 sft (model = tiny, data = answers)"));
    assert!(server.hits().is_empty());
    assert_success(&home.run());
    let records = records(&home, "runs");
    assert_eq!(records.len(), 8);
    let said: Vec<&str> = (records[1]["messages"].as_array().unwrap().iter())
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    let expected = [
        "Be brief.",
        "Once more: question 0?",
        "answer 41 to Once more: question 0?",
        "answer 41 to after 3 messages",
        "answer 41 to answer 41 to after 3 messages",
    ];
    assert_eq!(said, expected);
    assert_eq!(
        records[1]["lineage"]["requests"].as_array().unwrap().len(),
        3
    );
    assert_eq!(records[1]["lineage"]["parameters"]["seed"], 40);
    assert!(
        home.stage("runs", "sft")
            .join("model/model.safetensors")
            .exists()
    );
}

#[test]
fn conversations_that_end_early_are_counted_and_dropped() {
    let home = Home::new();
    let server = Server::start(|hit| {
        let mut answer = chat(hit);
        let empty = match question(hit).as_str() {
            "next of question 0?" => true,
            asked => asked == "more of question 1?",
        };
        let asked = question(hit);
        let reason = match asked.as_str() {
            "next of question 3?" | "question 5?" => Some("length"),
            "next of question 4?" => Some("content_filter"),
            _ => None,
        };
        if let Some(reason) = reason {
            answer["choices"][0]["finish_reason"] = reason.into();
        }
        if let (false, Some(seed)) = (empty, question(hit).strip_prefix("next of ")) {
            answer["choices"][0]["message"]["content"] = format!("more of {seed}").into();
        }
        if asked == "next of question 2?" {
            let thought = "<think>What now?</think>more of question 2?";
            answer["choices"][0]["message"]["content"] = thought.into();
        }
        if empty {
            answer["choices"][0]["message"]["content"] = " \n".into();
        }
        Reply::json(answer)
    });
    home.write("user.jinja", "next of {{ prompt }}");
    recipe(&home, &server, "", 6, "turns = 3\nuser = \"user.jinja\"");
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    for part in [
        "2 conversations of 6 prompts",
        "2 dropped with an empty answer",
        "1 dropped that end at `max_tokens`",
        "1 dropped whose answer the server held back",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // An answer that is cut stays, and counts, whichever turn it is of.
    let ledger = ledger(&home);
    assert_eq!(ledger["last_run"]["outcome"]["cut"], 1);
    let records = records(&home, "runs");
    assert_eq!(records[0]["messages"].as_array().unwrap().len(), 6);
    assert_eq!(records[0]["messages"][2]["content"], "more of question 2?");
    assert_eq!(records[0]["lineage"]["seed"], 2);
    assert_eq!(records[0]["lineage"]["finish_reason"], "stop");
    assert_eq!(records[1]["lineage"]["finish_reason"], "length");
}

#[test]
fn a_teacher_on_this_machine_writes_the_same_way() {
    let home = Home::new();
    let config = fs::read_to_string(home.path("tiny/tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}:".into();
    home.write("tiny/tokenizer_config.json", config.to_string());
    home.write("seeds.txt", "Who?\nWhy now?\nWhere to?\n");
    let stage = |keys: &str| {
        format!(
            r#"
seed = 7
[models.tiny]
source = "tiny"
[data.seeds]
source = "seeds.txt"
chunk = "lines"
[[stage]]
kind = "generate"
teacher = "tiny"
prompts = "seeds"
candidates = 3
sampling = {{ temperature = 1.0, max_tokens = 8 }}
{keys}
"#
        )
    };
    home.write(RECIPE, stage(""));
    assert_success(&home.run());
    let first = records(&home, "runs");
    assert_eq!(first.len(), 9);
    assert!(
        first[0]["lineage"]["model"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
    assert_ne!(first[0]["messages"], first[1]["messages"]);
    let again = home.distill(&["run", RECIPE, "--out", "again"]);
    assert_success(&again);
    assert!(
        stderr(&again).contains("3 answers from the store"),
        "{}",
        stderr(&again)
    );
    assert_eq!(records(&home, "again"), first);
    home.write(RECIPE, stage("logprobs = 1"));
    assert_failure(&home.run(), 2, &["`logprobs` needs a remote teacher"]);
}

//! Soft targets from the log-probabilities of generated answers: those that the model itself would tell.

use serde_json::{Value, json};

use crate::capture_remote::{Oracle, shown};
use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr};
use crate::models;
use crate::server::{Hit, Reply, Server, chat, question};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
const ANSWER: &str = "Yes, it was so.";
const END: u32 = 2;

/// The ids of what the template makes of a question, up to the answer.
fn prompt_ids(question: &str) -> Vec<u32> {
    let tokens = models::characters();
    let id = |character: char| {
        let token = character.to_string();
        tokens.iter().position(|other| *other == token).unwrap() as u32
    };
    format!("user: {question}assistant: ")
        .chars()
        .map(id)
        .collect()
}

/// What the model `tiny` tells of its answer, in OpenAI's form.
fn told(oracle: &Oracle, hit: &Hit) -> Value {
    let tokens = models::characters();
    let prompt = prompt_ids(&question(hit));
    let mut ids = prompt.clone();
    ids.extend(ANSWER.chars().map(|c| {
        let token = c.to_string();
        tokens.iter().position(|other| *other == token).unwrap() as u32
    }));
    ids.push(END);
    let top = hit.body["top_logprobs"].as_u64().unwrap() as usize;
    let tables = oracle.tables(&ids, top);
    let content = (prompt.len()..ids.len()).map(|at| {
        let named = |id: &str, told: &Value| {
            let text = tokens[id.parse::<usize>().unwrap()].clone();
            json!({ "token": text, "bytes": text.as_bytes(), "logprob": told["logprob"] })
        };
        let table = tables[at].as_object().unwrap();
        let mut entry = named(&ids[at].to_string(), &table[&ids[at].to_string()]);
        let mut best: Vec<Value> = table.iter().map(|(id, told)| named(id, told)).collect();
        best.sort_by(|a, b| {
            let log = |x: &Value| x["logprob"].as_f64().unwrap();
            log(b).total_cmp(&log(a))
        });
        best.truncate(top);
        entry["top_logprobs"] = best.into();
        entry
    });
    let mut answer = chat(hit);
    let choice = &mut answer["choices"][0];
    choice["message"]["content"] = ANSWER.into();
    choice["logprobs"]["content"] = content.collect();
    answer
}

fn recipe(server: &Server, rest: &str) -> String {
    format!(
        r#"
[models.tiny]
source = "tiny"
[models.served]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], retries = 1, backoff_seconds = 0.01 }}
tokenizer = "tiny"
[data.questions]
source = "questions.txt"
chunk = "lines"
[[stage]]
kind = "generate"
teacher = "served"
prompts = "questions"
logprobs = 8
as = "answers"
[[stage]]
kind = "capture"
teacher = "served"
data = "answers"
from = "answers"
encoding = {{ kind = "top_k", k = 8, bits = 16 }}
sequence_length = 64
shard_tokens = 40
chat_template = "{TEMPLATE}"
as = "targets"
{rest}
"#,
        server.endpoint()
    )
}

fn learn() -> String {
    format!(
        r#"
[[stage]]
kind = "distill"
student = "tiny"
teacher = {{ shards = "targets" }}
data = "answers"
loss = [{{ kind = "forward_kl" }}, {{ kind = "cross_entropy", weight = 0.1 }}]
steps = 3
sequence_length = 64
tokens_per_step = 256
chat_template = "{TEMPLATE}"
"#
    )
}

#[test]
fn what_was_told_with_answers_is_what_the_model_tells() {
    let home = Home::new();
    home.write("questions.txt", "One?\nTwo?\nThree?\nFour?\n");
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| {
        let mut answer = told(&oracle, hit);
        let logprobs = &mut answer["choices"][0]["logprobs"];
        match question(hit).as_str() {
            // The end of the turn is not told.
            "Two?" => drop(logprobs["content"].as_array_mut().unwrap().pop()),
            // So is an answer that goes on here.
            "Three?" => logprobs["content"].as_array_mut().unwrap().truncate(9),
            // Two of our tokens are one of another tokenizer, and one of a list is none of ours.
            "Four?" => {
                let content = logprobs["content"].as_array_mut().unwrap();
                content.remove(1);
                content[0]["token"] = "Ye".into();
                content[0]["bytes"] = json!([89, 101]);
            }
            _ => {
                let listed = &mut logprobs["content"][3]["top_logprobs"][7];
                listed["token"] = "mill".into();
                listed["bytes"] = json!([109, 105, 108, 108]);
            }
        }
        Reply::json(answer)
    });
    home.write(RECIPE, recipe(&server, &learn()));
    let output = home.run();
    assert_success(&output);
    let said = stderr(&output);
    for part in [
        "targets: 31 of 64 tokens of 4 answers",
        "2 answers are other tokens for the server than here",
        "the server's answer ends before \"a\"",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_eq!(server.hits().len(), 4);
    let stage = home.stage("runs", "capture");
    let counts = read_json(&stage.join("counts.json"));
    assert_eq!(
        (&counts["with_target"], &counts["tokens"]),
        (&json!(31), &json!(64))
    );
    let served = shown(&home, &stage);
    assert_eq!(served["targets"], 64);
    assert_eq!(served["known"], 31);
    assert_eq!(served["entropy_of"], "list_and_tail");
    let losses = metrics(&home.stage("runs", "distill"));
    assert!(losses.len() >= 3);

    // The same records as data, of which one tells nothing.
    let data = home.stage("runs", "generate").join("data.jsonl");
    let records = std::fs::read_to_string(data).unwrap();
    let untold = |(number, line): (usize, &str)| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if number == 1 {
            record.as_object_mut().unwrap().remove("logprobs");
        }
        record.to_string() + "\n"
    };
    let mut edited: String = records.lines().enumerate().map(untold).collect();
    // Beyond the limit.
    edited += &records.lines().next().unwrap().replace("\"m\"", "\"n\"");
    home.write("told.jsonl", edited);
    let of_file = recipe(&server, "")
        .replace(
            "chunk = \"lines\"",
            "chunk = \"lines\"\n[data.told]\nsource = \"told.jsonl\"\nlimit = 4",
        )
        .replace("data = \"answers\"", "data = \"told\"");
    home.write(RECIPE, of_file);
    let output = home.distill(&["run", RECIPE, "--out", "file"]);
    assert_success(&output);
    let said = stderr(&output);
    let expected = "targets: 16 of 64 tokens of 4 answers; 1 answers without log-probabilities";
    assert!(said.contains(expected), "{said}");

    // The model itself on the same answers.
    let local = recipe(&server, "")
        .replace("teacher = \"served\"\ndata", "teacher = \"tiny\"\ndata")
        .replace("from = \"answers\"\n", "");
    home.write(RECIPE, local);
    assert_success(&home.run());
    let captures = home.stages("runs", "capture");
    let other = captures.iter().find(|path| **path != stage).unwrap();
    let itself = shown(&home, other);
    assert_eq!(served["tokens"], itself["tokens"]);
    let samples = |shown: &Value| shown["samples"].as_array().unwrap().clone();
    let (mut worst, mut compared): (f64, usize) = (0.0, 0);
    for (at, (a, b)) in samples(&served).iter().zip(samples(&itself)).enumerate() {
        let own = a["tokens"].as_array().unwrap();
        let expected_known = at < 31;
        assert_eq!(!own.is_empty(), expected_known, "{at}");
        assert_eq!(a["entropy"].is_null(), !expected_known, "{at}");
        for token in own {
            let same = b["tokens"].as_array().unwrap().iter();
            let same = same.clone().find(|other| other["id"] == token["id"]);
            // What is not among the model's eight is the token that was written.
            if let Some(same) = same {
                let difference =
                    token["probability"].as_f64().unwrap() - same["probability"].as_f64().unwrap();
                worst = worst.max(difference.abs());
                compared += 1;
            }
        }
    }
    println!("{compared} probabilities differ by {worst:e} at most");
    assert!(compared > 200 && worst < 5e-4);
}

#[test]
fn answers_that_tell_nothing_are_found_before_anything_runs() {
    let home = Home::new();
    home.write("questions.txt", "One?\n");
    let server = Server::good();
    let good = recipe(&server, "");
    for (from, to, parts) in [
        (
            "logprobs = 8",
            "",
            ["does not store log-probabilities", "hint: add `logprobs"],
        ),
        (
            "logprobs = 8",
            "logprobs = 8\nsampling = { temperature = 0.7 }",
            ["at another temperature than 1", "hint: generate them"],
        ),
        (
            "teacher = \"served\"\ndata",
            "teacher = \"tiny\"\ndata",
            ["hold no log-probabilities", "hint: leave out `from`"],
        ),
        (
            "from = \"answers\"",
            "from = \"answers\"\nbudget = { tokens = 5 }",
            ["nobody is asked", "`budget`"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        home.write(RECIPE, good.replace(from, to));
        assert_failure(&home.run(), 2, &parts);
    }
    let other = "[models.other]\nsource = { kind = \"remote\", model = \"n\", endpoints = [\"http://127.0.0.1:1/v1\"] }\n";
    let of_another = good.replace(
        "teacher = \"served\"\nprompts",
        "teacher = \"other\"\nprompts",
    );
    home.write(RECIPE, format!("{other}{of_another}"));
    let parts = [
        "`n` writes these answers, and `teacher` is `m`",
        "hint: teacher = \"other\"",
    ];
    assert_failure(&home.run(), 2, &parts);
    let capture = "[[stage]]\nkind = \"capture\"";
    let rate = "[[stage]]\nkind = \"rate\"\nteacher = \"served\"\nanswers = [\"answers\"]\nkeep = \"best\"\nas = \"best\"\n";
    let of_best = good
        .replace(capture, &format!("{rate}{capture}"))
        .replace("data = \"answers\"", "data = \"best\"");
    home.write(RECIPE, of_best);
    let parts = ["the stage `rate` that makes these answers does not store"];
    assert_failure(&home.run(), 2, &parts);
    assert_eq!(server.hits().len(), 0);
}

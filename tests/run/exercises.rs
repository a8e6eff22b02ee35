//! The stage `exercises`, and what sifts its data: syntax, duplicates, problems of HumanEval.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr};
use crate::server::{Hit, Reply, Server, chat, question};

/// What the teacher says of each topic.
const ANSWERS: [(&str, &str); 10] = [
    (
        "double",
        "Sure:\n```python\ndef double(x):\n    \"\"\"Return twice the number x, whatever kind of number that is.\"\"\"\n    return x * 2\n```\nDone.",
    ),
    (
        "twice",
        "def double(x):\n    \"\"\"Return twice the number x, whatever kind of number that is.\"\"\"\n    return x * 2\n",
    ),
    (
        "problem",
        "def truncate(number):\n    \"\"\"Given a positive floating point number it can be decomposed into an integer part and decimals, return the decimals.\"\"\"\n    return number % 1.0\n",
    ),
    (
        "half",
        "<think>\n```\nx = 1\n```\n</think>def half(x):\n    \"\"\"Half of x.\"\"\"\n    y = x / 2\n    return y\n\nprint(half(3))\n",
    ),
    ("broken", "def f(:\n    \"\"\"d\"\"\"\n    return 1"),
    ("silent", "def f():\n    return 1"),
    ("lazy", "def f():\n    \"\"\"Doc.\"\"\"\n    pass"),
    (
        "many",
        "def f():\n    'd'\n    return 1\n\ndef g():\n    return 2",
    ),
    (
        "cut",
        "```\ndef f(x):\n    \"\"\"Doc.\"\"\"\n    y = x\n    ret",
    ),
    ("nothing", ""),
];

fn writing(hit: &Hit) -> Reply {
    let topic = question(hit);
    let said = ANSWERS.iter().find(|(name, _)| topic.ends_with(name));
    let mut answer = chat(hit);
    answer["choices"][0]["message"]["content"] = said.map_or("", |(_, code)| code).into();
    if topic.ends_with("cut") {
        answer["choices"][0]["finish_reason"] = "length".into();
    }
    Reply::json(answer)
}

fn home(server: &Server, stages: &str) -> Home {
    let home = Home::new();
    let topics: Vec<&str> = ANSWERS.iter().map(|(name, _)| *name).collect();
    home.write("topics.txt", topics.join("\n"));
    home.write("ask.jinja", "Write about {{ prompt }}");
    let problem = json!({
        "task_id": "HumanEval/2",
        "prompt": "def truncate_number(number: float) -> float:\n    \"\"\" Given a positive floating point number, it can be decomposed into\n    an integer part and decimals (leftover part always smaller than 1).\n    \"\"\"\n",
    });
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writeln!(packed, "{problem}").unwrap();
    home.write("HumanEval.jsonl.gz", packed.finish().unwrap());
    home.write(
        RECIPE,
        format!(
            r#"
[models.coder]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], concurrency = 4 }}
[models.tiny]
source = "tiny"
[data.topics]
source = "topics.txt"
chunk = "lines"
[data.humaneval]
source = "HumanEval.jsonl.gz"
[[stage]]
kind = "exercises"
teacher = "coder"
topics = "topics"
prompt = "ask.jinja"
as = "written"
{stages}
"#,
            server.endpoint()
        ),
    );
    home
}

const SIFTED: &str = r#"
[[stage]]
kind = "dedup"
data = "written"
method = { kind = "exact" }
field = "completion"
as = "unique"
[[stage]]
kind = "decontaminate"
data = "unique"
against = ["humaneval"]
as = "clean"
[[stage]]
kind = "sft"
model = "tiny"
data = "clean"
steps = 1
sequence_length = 64
tokens_per_step = 64
"#;

fn lines(home: &Home, kind: &str, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.stage("runs", kind).join(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn functions_become_data_without_copies_and_known_problems() {
    let server = Server::start(writing);
    let home = home(&server, SIFTED);
    let output = home.run();
    assert_success(&output);
    let written = lines(&home, "exercises", "data.jsonl");
    assert_eq!(written.len(), 4);
    assert_eq!(written[0]["topic"], "double");
    assert_eq!(written[0]["entry_point"], "double");
    assert_eq!(
        written[0]["prompt"],
        "def double(x):\n    \"\"\"Return twice the number x, whatever kind of number that is.\"\"\"\n"
    );
    assert_eq!(written[0]["completion"], "    return x * 2\n");
    assert_eq!(written[3]["completion"], "    y = x / 2\n    return y\n");
    assert_eq!(written[0]["lineage"]["model"], "m");
    assert_eq!(written[0]["lineage"]["seed"], 0);
    for part in [
        "4 exercises of 10 topics",
        "1 dropped that end at `max_tokens` (the last line is `    ret`)",
        "1 dropped whose answer is no Python (line 1: ",
        "1 dropped whose function has no docstring (`f`)",
        "1 dropped whose function does nothing",
        "1 dropped whose answer is not one function",
        "1 dropped with an empty answer",
    ] {
        assert!(
            stderr(&output).contains(part),
            "{part}: {}",
            stderr(&output)
        );
    }
    let ledger = read_json(&home.stage("runs", "exercises").join("ledger.json"));
    let dropped = &ledger["last_run"]["outcome"]["dropped"];
    assert_eq!(dropped["not_python"], 1);

    assert_eq!(lines(&home, "dedup", "dropped.jsonl").len(), 1);
    let clean = lines(&home, "decontaminate", "data.jsonl");
    let names: Vec<&Value> = clean.iter().map(|record| &record["entry_point"]).collect();
    assert_eq!(names, ["double", "half"]);
    let dropped = lines(&home, "decontaminate", "dropped.jsonl");
    assert_eq!(dropped[0]["rule"], "humaneval");
}

#[test]
fn python_is_told_from_other_texts() {
    let server = Server::good();
    let home = home(&server, "");
    home.write(
        "code.py",
        "x = 1\n\n\ndef f(x):\n    return x\n\n\n@g\nclass A:\n    y = 2\n",
    );
    let texts = [
        "def f():\n    return 1\n",
        "Here you are:\nx = 1",
        "if x:\nreturn",
        "y = 2",
    ];
    let rows = texts.map(|text| format!("{}\n", json!({ "text": text })));
    home.write("mixed.jsonl", rows.concat());
    home.write(
        RECIPE,
        "[data.mixed]\nsource = \"mixed.jsonl\"\n[data.code]\nsource = \"code.py\"\nchunk = \"definitions\"\n\
         [[stage]]\nkind = \"filter\"\ndata = \"mixed\"\nrules = [{ kind = \"python_syntax\" }]\nas = \"python\"\n\
         [[stage]]\nkind = \"dedup\"\ndata = \"code\"\nmethod = { kind = \"exact\" }\n",
    );
    assert_success(&home.run());
    let kept = lines(&home, "filter", "data.jsonl");
    assert_eq!(
        kept,
        [json!({ "text": texts[0] }), json!({ "text": texts[3] })]
    );
    let dropped = lines(&home, "filter", "dropped.jsonl");
    assert_eq!(dropped[0]["rule"], "python_syntax");
    let defined = lines(&home, "dedup", "data.jsonl");
    assert_eq!(defined[0]["text"], "def f(x):\n    return x");
    assert_eq!(defined[1]["text"], "@g\nclass A:\n    y = 2");
    assert_eq!(defined.len(), 2);
}

#[test]
fn answers_without_any_exercise_are_an_error() {
    let server = Server::good();
    let home = home(&server, "");
    let parts = [
        "none of the topics has a usable answer",
        "10 dropped whose answer is no Python",
    ];
    assert_failure(&home.run(), 1, &parts);
    let set = ["run", RECIPE, "--set", "stage.written.candidates=0"];
    assert_failure(&home.distill(&set), 2, &["`candidates` lies between"]);
}

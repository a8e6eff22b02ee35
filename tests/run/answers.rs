//! GSM8K and MATH: models here and behind servers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Hit, Reply, Server};

/// Four questions and two worked examples, and a model that reads them.
fn home() -> Home {
    let home = Home::new();
    let config = fs::read_to_string(home.path("tiny/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = json!(256);
    home.write("tiny/config.json", config.to_string());
    let line = |question: &str, answer: u32| {
        let answer = format!("It is {answer}.\n#### {answer}");
        format!("{}\n", json!({ "question": question, "answer": answer }))
    };
    let questions: String = (1..=4)
        .map(|n| line(&format!("{n} + {n}?"), 2 * n))
        .collect();
    home.write("test.jsonl", questions);
    home.write("train.jsonl", line("1 + 2?", 3) + &line("2 + 3?", 5));
    home
}

fn stage(models: &str, more: &str) -> String {
    format!(
        r#"
seed = 3
{models}
[data.test]
source = "test.jsonl"
[data.train]
source = "train.jsonl"
[[stage]]
kind = "eval"
task = "gsm8k"
data = "test"
shots = 2
shots_data = "train"
max_tokens = 6
{more}
"#
    )
}

const LOCAL: &str = "[models.tiny]\nsource = \"tiny\"";

fn remote(server: &Server, more: &str) -> String {
    let endpoint = server.endpoint();
    format!(
        "[models.far]\nsource = {{ kind = \"remote\", model = \"m\", endpoints = [\"{endpoint}\"]{more} }}"
    )
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn prompt(question: u32) -> String {
    format!(
        "Question: 1 + 2?\nAnswer: It is 3.\n#### 3\n\nQuestion: 2 + 3?\nAnswer: It is 5.\n#### 5\n\n\
         Question: {question} + {question}?\nAnswer:"
    )
}

/// A server that is right of 1 + 1 and 2 + 2, of the second in its own words, and goes on for too long.
fn completing(hit: &Hit) -> Reply {
    let prompt = hit.body["prompt"].as_str().unwrap_or_default();
    let text = match prompt.rsplit("Question: ").next().unwrap_or_default() {
        asked if asked.starts_with('1') => " It is 2.\n#### 2\n\nQuestion: 7?",
        asked if asked.starts_with('2') => " That makes 4.",
        _ => " #### 11",
    };
    Reply::json(json!({
        "choices": [{ "index": 0, "text": text, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 20, "completion_tokens": 5 },
    }))
}

#[test]
fn a_stage_leaves_scores_and_records_and_goes_on_after_a_kill() {
    let home = home();
    home.write(RECIPE, stage(LOCAL, "models = [\"tiny\"]\nlimit = 3"));
    let output = home.run();
    assert_success(&output);
    let shown = stdout(&output);
    assert!(shown.contains("gsm8k on test"), "{shown}");
    assert!(shown.contains("flexible"), "{shown}");
    let stage = home.stage("runs", "eval");
    let path = stage.join("records-1-tiny.jsonl");
    let first = records(&path);
    assert_eq!(first.len(), 3);
    for record in &first {
        let number = record["number"].as_u64().unwrap() as u32;
        assert_eq!(record["prompt"], prompt(number));
        assert_eq!(record["expected"], (2 * number).to_string());
    }
    let scores = read_json(&stage.join("scores.json"));
    let row = &scores["rows"][0];
    assert_eq!(row["strict"]["questions"], 3);
    assert!(row["parameters"].is_u64());
    // As a kill behind the first record would leave it.
    let digest = read_json(&stage.join("stage.json"))["digest"].clone();
    let line = json!({ "sample": first[0]["number"], "record": first[0] });
    let kept = format!("{}\n{line}\n", json!({ "evaluation": digest }));
    fs::write(stage.join("records-1-tiny.jsonl.partial"), kept).unwrap();
    for file in ["records-1-tiny.jsonl", "stage.json", "scores.json"] {
        fs::remove_file(stage.join(file)).unwrap();
    }
    assert_success(&home.run());
    assert_eq!(read_json(&stage.join("scores.json")), scores);
    let without_time = |records: Vec<Value>| -> Vec<Value> {
        let mut records = records;
        records
            .iter_mut()
            .for_each(|record| record["seconds"] = json!(0));
        records
    };
    assert_eq!(without_time(records(&path)), without_time(first));
}

#[test]
fn a_server_is_asked_once_for_texts_and_judged_by_both_rules() {
    let server = Server::start(completing);
    let home = home();
    let priced = ", price = { input = 1.0, output = 2.0 }";
    let more = "models = [\"far\", \"tiny\"]\nbudget = { tokens = 10000, dollars = 1.0 }";
    let models = format!("{}\n{LOCAL}", remote(&server, priced));
    home.write(RECIPE, stage(&models, more));
    let output = home.run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("; 4 requests in all runs"),
        "{}",
        stderr(&output)
    );
    let hits = server.hits();
    assert_eq!(hits.len(), 4);
    let mut prompts: Vec<String> = Vec::new();
    for hit in &hits {
        assert!(hit.path.ends_with("/v1/completions"), "{}", hit.path);
        assert_eq!(hit.body["temperature"], 0.0);
        assert_eq!(hit.body["max_tokens"], 6);
        assert!(hit.body.get("seed").is_none());
        assert_eq!(hit.body["stop"], json!(["Question:", "</s>", "<|im_end|>"]));
        prompts.push(hit.body["prompt"].as_str().unwrap().to_string());
    }
    prompts.sort();
    assert_eq!(prompts, (1..=4).map(prompt).collect::<Vec<_>>());
    let stage_directory = home.stage("runs", "eval");
    let scores = read_json(&stage_directory.join("scores.json"));
    let row = &scores["rows"][0];
    assert_eq!(
        (&row["strict"]["correct"], &row["flexible"]["correct"]),
        (&json!(1), &json!(2))
    );
    assert!(row.get("parameters").is_none());
    let found = records(&stage_directory.join("records-1-far.jsonl"));
    assert_eq!(found[0]["output"], " It is 2.\n#### 2\n\n");
    assert_eq!(
        (&found[1]["strict_answer"], &found[1]["answer"]),
        (&json!(null), &json!("4."))
    );
    let ledger = read_json(&stage_directory.join("ledger.json"));
    assert_eq!(ledger["all_runs"]["input_tokens"], 80);
    assert_eq!(ledger["all_runs"]["dollars"], 120e-6);
    // What was paid for is not asked again, whatever becomes of the stage.
    fs::remove_dir_all(&stage_directory).unwrap();
    let again = home.run();
    assert_success(&again);
    assert!(
        stderr(&again).contains("4 answers from the store"),
        "{}",
        stderr(&again)
    );
    assert_eq!(server.hits().len(), 4);

    home.write(
        RECIPE,
        stage(
            &models,
            "models = [\"far\"]\nbudget = { tokens = 50 }\nlimit = 4",
        )
        .replace("max_tokens = 6", "max_tokens = 7"),
    );
    let budget = home.run();
    assert_failure(&budget, 1, &["budget", "50 tokens"]);
}

#[test]
fn the_verb_evaluates_models_of_both_kinds_and_compares_them() {
    let server = Server::start(completing);
    let home = home();
    let far = format!(
        "{{ kind = \"remote\", model = \"m\", endpoints = [\"{}\"] }}",
        server.endpoint()
    );
    let eval = |model: &str, more: &[&str]| {
        let eval = ["eval", "gsm8k", "--model", model, "--data", "test.jsonl"];
        home.distill(&[&eval[..], more].concat())
    };
    let shots = [
        "--shots",
        "2",
        "--shots-data",
        "train.jsonl",
        "--max-tokens",
        "6",
    ];
    let with = |model: &str, more: &[&str]| eval(model, &[&shots[..], more].concat());
    let output = with(&far, &["--json", "--records", "far.jsonl"]);
    assert_success(&output);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&report["model"], &report["shots"]),
        (&json!("m"), &json!(2))
    );
    assert_eq!(report["flexible"]["accuracy"], 0.5);
    let output = with("tiny", &["--records", "tiny.jsonl"]);
    assert_success(&output);
    assert!(
        stdout(&output).contains("gsm8k: 4 questions, 2 shots"),
        "{}",
        stdout(&output)
    );
    let compared = home.distill(&["eval", "--compare", "far.jsonl", "tiny.jsonl"]);
    assert_success(&compared);
    assert_failure(&eval("tiny", &[]), 2, &["5 worked examples", "--shots 0"]);
    assert_failure(
        &eval("tiny", &["--shots-data", "train.jsonl"]),
        1,
        &["2 worked examples, and 5"],
    );
    assert_failure(
        &eval("tiny", &["--shots", "0", "--samples", "2"]),
        2,
        &["human_eval"],
    );
    let mmlu = home.distill(&["eval", "mmlu", "--model", &far, "--data", "test.jsonl"]);
    assert_failure(
        &mmlu,
        2,
        &["log-probabilities", "hint: name with --tokenizer"],
    );
    for (answer, says) in [
        (
            "\"#### five apples\"",
            "a text that ends in `#### ` and a number",
        ),
        ("null", "null"),
    ] {
        let line = format!("{{\"question\": \"q\", \"answer\": {answer}}}\n");
        home.write("unanswered.jsonl", line);
        let eval = ["eval", "gsm8k", "--model", "tiny", "--shots", "0", "--data"];
        let output = home.distill(&[&eval[..], &["unanswered.jsonl"]].concat());
        assert_failure(&output, 1, &["unanswered.jsonl", "`answer`", says]);
    }
    let wrong = home.distill(&["eval", "math", "--model", "tiny", "--data", "test.jsonl"]);
    assert_failure(&wrong, 1, &["no column `problem`"]);
}

#[test]
fn what_makes_no_sense_is_told() {
    let server = Server::start(completing);
    let home = home();
    let models = format!("{}\n{LOCAL}", remote(&server, ""));
    let good = stage(&models, "models = [\"far\"]\nlimit = 2");
    home.write(RECIPE, &good);
    assert_success(&home.distill(&["check", RECIPE]));
    for (from, to, wanted) in [
        (
            "shots = 2\nshots_data = \"train\"\n",
            "",
            "`gsm8k` is asked with 5 worked examples",
        ),
        ("shots_data = \"train\"\n", "", "`shots` needs `shots_data`"),
        ("shots = 2", "shots = 0", "`shots_data` needs `shots`"),
        (
            "shots_data = \"train\"",
            "shots_data = \"test\"",
            "`shots_data` is `data` itself",
        ),
        (
            "max_tokens = 6",
            "max_tokens = 0",
            "`max_tokens` must be at least 1",
        ),
        (
            "limit = 2",
            "budget = { dollars = 1.0 }",
            "needs the `price` of `far`",
        ),
        (
            "models = [\"far\"]",
            "models = [\"tiny\"]\nbudget = { tokens = 5 }",
            "none of `models` is one",
        ),
        (
            "shots = 2",
            "temperature = 1.0\nshots = 2",
            "unknown key `temperature`",
        ),
        (
            &good[good.find("task =").unwrap()..],
            "task = \"mmlu\"\nmodels = [\"far\"]\ndata = \"test\"\n",
            "`mmlu` asks for the log-probabilities of given tokens",
        ),
    ] {
        home.write(RECIPE, good.replace(from, to));
        assert_failure(&home.distill(&["check", RECIPE]), 2, &[wanted]);
    }
    assert!(server.hits().is_empty());
}

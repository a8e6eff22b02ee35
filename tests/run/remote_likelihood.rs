//! Tasks of `eval` that need log-probabilities of given tokens, of a model behind a server: those of the same model here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::capture_remote::Oracle;
use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::models::{TEXT, characters};
use crate::server::{Hit, Reply, Server};

const TASKS: [&str; 5] = [
    "task = \"mmlu\"\nshots = 1\nshots_data = \"dev\"\nlimit = 5",
    "task = \"kmmlu\"",
    "task = \"hellaswag\"",
    "task = \"truthfulqa_mc1\"",
    "task = \"perplexity\"\nwindow = 32\nstride = 8",
];
/// The data of each task, and requests: a choice each, a window each. Every character but the first is scored.
const DATA: [(&str, usize); 5] = [
    ("mmlu", 20),
    ("kmmlu", 12),
    ("swag", 12),
    ("truth", 7),
    ("heldout", WINDOWS),
];

const WINDOWS: usize = 1 + (TEXT.len() - 1 - 32).div_ceil(8);

/// Questions of all sets, and a model with room for their prompts.
fn home(context: usize) -> Home {
    let home = Home::new();
    let mut config = read_json(&home.path("tiny/config.json"));
    config["max_position_embeddings"] = json!(context);
    home.write("tiny/config.json", config.to_string());
    let lines = |records: Vec<Value>| -> String {
        records.iter().map(|record| format!("{record}\n")).collect()
    };
    let mmlu = |number: usize| {
        let subject = ["anatomy", "astronomy"][number % 2];
        let choices = ["one", "two", "three", "four"];
        json!({ "question": format!("What is {number}?"), "subject": subject, "choices": choices, "answer": number % 4 })
    };
    home.write("mmlu.jsonl", lines((0..7).map(mmlu).collect()));
    home.write("dev.jsonl", lines((20..24).map(mmlu).collect()));
    let kmmlu = |number: usize| {
        let mut question =
            json!({ "question": format!("q {number}"), "answer": number, "Category": "Law" });
        for letter in ["A", "B", "C", "D"] {
            question[letter] = json!(format!("{letter} of {number}"));
        }
        question
    };
    home.write("kmmlu.jsonl", lines((1..4).map(kmmlu).collect()));
    let swag = |number: usize| {
        let endings = [
            "turns.",
            "writes all of it down.",
            "stops",
            "goes, and comes",
        ];
        json!({ "activity_label": "Milling", "ctx_a": format!("The miller has {number} sacks."), "ctx_b": "he", "endings": endings, "label": number })
    };
    home.write("swag.jsonl", lines((0..3).map(swag).collect()));
    let truth = |choices: &[&str]| {
        let labels: Vec<usize> = (0..choices.len()).map(|at| usize::from(at == 0)).collect();
        json!({ "question": "Why?", "mc1_targets": { "choices": choices, "labels": labels } })
    };
    home.write(
        "truth.jsonl",
        lines(vec![
            truth(&["No reason", "Because", "Who knows?"]),
            truth(&["a", "b", "c", "d"]),
        ]),
    );
    home
}

fn recipe(endpoint: &str, keys: &str) -> String {
    let mut text = format!(
        r#"
seed = 3
[models.tiny]
source = "tiny"
[models.far]
source = {{ kind = "remote", model = "m", endpoints = ["{endpoint}"], retries = 1, backoff_seconds = 0.01, price = {{ input = 1.0, output = 2.0 }} }}
tokenizer = "tiny"
[data.heldout]
source = "heldout.txt"
"#
    );
    for name in ["mmlu", "dev", "kmmlu", "swag", "truth"] {
        text += &format!("[data.{name}]\nsource = \"{name}.jsonl\"\n");
    }
    for (task, (data, _)) in TASKS.iter().zip(DATA) {
        text += &format!("[[stage]]\nkind = \"eval\"\n{task}\ndata = \"{data}\"\n{keys}\n");
    }
    text
}

/// Only the stage of a task.
fn only(recipe: &str, task: &str) -> String {
    let mut parts = recipe.split("[[stage]]");
    let head = parts.next().unwrap();
    let wanted = format!("task = \"{task}\"");
    let stage = parts.find(|stage| stage.contains(&wanted)).unwrap();
    format!("{head}[[stage]]{stage}")
}

/// The evaluations below `out` by their tasks.
fn scores(home: &Home, out: &str) -> Vec<(String, PathBuf, Value)> {
    let stages = home.stages(out, "eval").into_iter();
    let read = |stage: PathBuf| {
        let scores = read_json(&stage.join("scores.json"));
        (scores["task"].as_str().unwrap().to_string(), stage, scores)
    };
    stages.map(read).collect()
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn far(server: &Server) -> String {
    let endpoint = server.endpoint();
    format!("{{ kind = \"remote\", model = \"m\", endpoints = [\"{endpoint}\"] }}")
}

/// The largest difference of log-likelihoods of two files of records, in which all else is the same.
fn compare(ours: &Path, theirs: &Path) -> f64 {
    let (ours, theirs) = (records(ours), records(theirs));
    assert_eq!(ours.len(), theirs.len());
    let mut worst: f64 = 0.0;
    for (mut a, mut b) in ours.into_iter().zip(theirs) {
        let numbers = [&mut a, &mut b].map(|record| {
            record["seconds"] = json!(0);
            let numbers = record["log_likelihoods"].take();
            serde_json::from_value::<Vec<f64>>(numbers).unwrap()
        });
        assert_eq!(a, b);
        let pairs = numbers[0].iter().zip(&numbers[1]);
        worst = pairs.fold(worst, |worst, (a, b)| worst.max((a - b).abs()));
    }
    worst
}

#[test]
fn a_server_has_the_scores_of_the_model_that_it_serves() {
    let home = home(4096);
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| Reply::json(oracle.answer(hit)));
    let text = recipe(&server.endpoint(), "models = [\"tiny\", \"far\"]");
    home.write(RECIPE, &text);
    let plan = home.distill(&["plan", RECIPE, "--json", "--no-probe"]);
    assert_success(&plan);
    let plan: Value = serde_json::from_str(&stdout(&plan)).unwrap();
    assert_eq!(plan["stages"][0]["requests"]["requests"], 20);
    // A token is taken for four characters there.
    let windows = 1 + (TEXT.len().div_ceil(4) - 1 - 32).div_ceil(8);
    assert_eq!(plan["stages"][4]["requests"]["requests"], windows);
    assert_success(&home.run());
    let requests: usize = DATA.iter().map(|(_, requests)| requests).sum();
    let hits = server.hits();
    assert_eq!(hits.len(), requests);
    for hit in &hits {
        assert!(hit.path.ends_with("/v1/completions"), "{}", hit.path);
        assert!(hit.body["prompt"].is_array());
        assert_eq!(hit.body["prompt_logprobs"], 0);
    }
    let found = scores(&home, "runs");
    assert_eq!(found.len(), TASKS.len());
    for (task, stage, scores) in &found {
        let (local, remote) = (&scores["rows"][0], &scores["rows"][1]);
        assert!(remote.get("parameters").is_none());
        let ledger = read_json(&stage.join("ledger.json"));
        assert!(ledger["all_runs"]["dollars"].as_f64() > Some(0.0));
        if task == "perplexity" {
            assert_eq!(
                (&local["tokens"], &local["bytes"]),
                (&remote["tokens"], &remote["bytes"])
            );
            let [a, b] = [local, remote].map(|row| row["nll"].as_f64().unwrap());
            println!("perplexity: nll {a} {b}");
            assert!((a - b).abs() < 1e-5, "{a} {b}");
            continue;
        }
        for key in ["questions", "correct", "normalised", "subjects", "cut"] {
            assert_eq!(local[key], remote[key], "{task}: {key}");
        }
        let [ours, theirs] =
            ["1-tiny", "2-far"].map(|name| stage.join(format!("records-{name}.jsonl")));
        let worst = compare(&ours, &theirs);
        println!("{task}: log-likelihoods differ by {worst:e} at most");
        assert!(worst < 1e-5, "{task}: {worst}");
        let paths = [ours.to_str().unwrap(), theirs.to_str().unwrap()];
        let compared = home.distill(&["eval", "--compare", paths[0], paths[1]]);
        assert_success(&compared);
        assert!(stdout(&compared).contains("McNemar's p  1.0000"));
    }

    // The server is gone: stored answers are enough, for the same scores.
    home.write(
        RECIPE,
        recipe("http://127.0.0.1:1/v1", "models = [\"tiny\", \"far\"]"),
    );
    let again = home.distill(&["run", RECIPE, "--out", "again"]);
    assert_success(&again);
    assert!(
        stderr(&again).contains("20 answers from the store"),
        "{}",
        stderr(&again)
    );
    for ((_, before, first), (_, after, second)) in found.iter().zip(scores(&home, "again")) {
        assert_eq!(*first, second);
        let name = "records-2-far.jsonl";
        if before.join(name).exists() {
            assert_eq!(compare(&before.join(name), &after.join(name)), 0.0);
        }
    }
}

/// The same numbers in the OpenAI API's older way.
fn echo(oracle: &Oracle, hit: &Hit) -> Value {
    let ids: Vec<u32> = serde_json::from_value(hit.body["prompt"].clone()).unwrap();
    let tables = oracle.tables(&ids, 0);
    let texts = characters();
    let tokens = ids.iter().map(|id| texts[*id as usize].clone());
    let own = ids.iter().zip(&tables);
    let own = own.map(|(id, table)| table[id.to_string()]["logprob"].clone());
    json!({ "choices": [{ "text": "x", "logprobs": {
        "tokens": tokens.collect::<Vec<_>>(), "token_logprobs": own.collect::<Vec<_>>(), "top_logprobs": null } }] })
}

#[test]
fn the_verb_scores_a_server_of_the_older_way_and_compares_it() {
    let home = home(4096);
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| match hit.body["echo"] == true {
        true => Reply::json(echo(&oracle, hit)),
        false => Reply::refused(400, "unknown parameter `prompt_logprobs`"),
    });
    let eval = |task: &str, model: &str, more: &[&str]| {
        let data = match task {
            "perplexity" => "heldout.txt",
            _ => "mmlu.jsonl",
        };
        home.distill(&[&["eval", task, "--model", model, "--data", data][..], more].concat())
    };
    let far = far(&server);
    let lent = ["--tokenizer", "tiny"];
    let with = |task: &str, more: &[&str]| eval(task, &far, &[&lent[..], more].concat());
    let output = with("mmlu", &["--json", "--records", "far.jsonl"]);
    assert_success(&output);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&report["model"], &report["questions"]),
        (&json!("m"), &json!(7))
    );
    assert_success(&eval("mmlu", "tiny", &["--records", "tiny.jsonl"]));
    assert!(compare(&home.path("far.jsonl"), &home.path("tiny.jsonl")) < 1e-5);
    let compared = home.distill(&["eval", "--compare", "far.jsonl", "tiny.jsonl"]);
    assert_success(&compared);
    assert!(stdout(&compared).contains("McNemar's p  1.0000"));
    let window = ["--json", "--window", "32", "--limit", "70"];
    let nll = |output: std::process::Output| {
        assert_success(&output);
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(
            (&report["tokens"], &report["stride"]),
            (&json!(70), &json!(16))
        );
        report["nll"].as_f64().unwrap()
    };
    let (ours, theirs) = (
        nll(eval("perplexity", "tiny", &window)),
        nll(with("perplexity", &window)),
    );
    assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");

    let hits = server.hits().len();
    let needs = [
        "log-probabilities of given tokens",
        "no tokenizer here",
        "hint: name with --tokenizer",
    ];
    assert_failure(&eval("mmlu", &far, &[]), 2, &needs);
    assert_failure(&eval("perplexity", &far, &[]), 2, &needs);
    let useless = ["`--tokenizer` is for a model behind a server"];
    assert_failure(&eval("mmlu", "tiny", &lent), 2, &useless);
    assert_failure(&with("gsm8k", &["--shots", "0"]), 2, &useless);
    let of_server = eval("mmlu", &far, &["--tokenizer", &far]);
    assert_failure(&of_server, 2, &["--tokenizer", "it has no files"]);
    assert_eq!(server.hits().len(), hits);
}

#[test]
fn what_a_server_reads_at_once_is_no_more_than_fits() {
    let home = home(128);
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| {
        // As vLLM counts.
        let length = hit.body["prompt"].as_array().unwrap().len() + 1;
        match length > 128 {
            true => Reply::refused(400, "maximum context length is 128 tokens"),
            false => Reply::json(oracle.answer(hit)),
        }
    });
    let text = recipe(&server.endpoint(), "models = [\"far\"]");
    for task in ["truthfulqa_mc1", "perplexity"] {
        home.write(
            RECIPE,
            only(&text, task).replace("window = 32\nstride = 8", ""),
        );
        assert_success(&home.run());
    }
    let longest = server.hits().into_iter();
    let longest = longest.map(|hit| hit.body["prompt"].as_array().unwrap().len());
    assert_eq!(longest.max(), Some(127));
    home.write(
        RECIPE,
        only(&text, "perplexity").replace("window = 32", "window = 127"),
    );
    let parts = [
        "perplexity of model `far`",
        "window = 127",
        "context of 126 at most",
    ];
    assert_failure(&home.run(), 1, &parts);
}

#[test]
fn a_kill_pays_for_nothing_twice_and_a_budget_holds() {
    let home = home(4096);
    let oracle = Oracle::new(&home);
    let server = Server::start(move |hit| {
        std::thread::sleep(Duration::from_millis(20));
        Reply::json(oracle.answer(hit))
    });
    let text = recipe(&server.endpoint(), "models = [\"far\"]");
    let stage = only(&text, "mmlu").replace("retries = 1", "retries = 1, concurrency = 2");
    home.write(RECIPE, format!("{stage}budget = {{ tokens = 1500 }}\n"));
    assert_failure(
        &home.run(),
        1,
        &["mmlu of model `far`", "the budget of this stage is reached"],
    );
    let asked = server.hits().len();
    assert!((3..20).contains(&asked), "{asked}");
    home.write(RECIPE, &stage);
    let mut run = home.spawn("runs");
    assert!(run.wait_until(|| server.hits().len() >= asked + 5));
    run.signal(libc::SIGKILL);
    run.finish();
    assert_success(&home.run());
    let mut prompts: Vec<String> = server
        .hits()
        .iter()
        .map(|hit| hit.body["prompt"].to_string())
        .collect();
    let all = prompts.len();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 20);
    // At most what was under way at the kill is asked again.
    assert!(all <= 20 + 2, "{all}");
    let ledger = read_json(&home.stage("runs", "eval").join("ledger.json"));
    assert_eq!(ledger["all_runs"]["answers"], 20, "{ledger}");
    let (_, _, scores) = &scores(&home, "runs")[0];
    assert_eq!(scores["rows"][0]["questions"], 5);

    home.write(
        RECIPE,
        only(&text, "perplexity").replace("retries = 1", "retries = 1, concurrency = 1"),
    );
    let mut run = home.spawn("stopped");
    assert!(run.wait_until(|| server.hits().len() > all + 2));
    run.signal(libc::SIGINT);
    let (status, said) = run.finish();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("stopped in stage 1"), "{said}");
    assert!(server.hits().len() < all + WINDOWS);
    assert_success(&home.distill(&["run", RECIPE, "--out", "stopped"]));
    assert!(server.hits().len() <= all + WINDOWS + 1);
}

#[test]
fn what_a_server_cannot_is_told_with_its_task() {
    for (edit, parts) in [
        (
            "refuses",
            [
                "mmlu of model `far`",
                "/v1 cannot score a given text",
                "unknown parameter",
                "hint: vLLM and SGLang can",
            ],
        ),
        (
            "no ids",
            [
                "mmlu of model `far`",
                "/v1 cannot score a given text",
                "prompt: expected a string",
                "hint: vLLM",
            ],
        ),
        (
            "leaves out",
            [
                "mmlu of model `far`",
                "neither `prompt_logprobs` nor `echo` with `logprobs`",
                "llama.cpp",
                "GGUF",
            ],
        ),
        (
            "other token",
            [
                "mmlu of model `far`",
                "token 3 of question ",
                "is token",
                "hint: `tokenizer` of the remote model must name",
            ],
        ),
        (
            "other text",
            [
                "mmlu of model `far`",
                "token 2 of question ",
                "\"zebra\"",
                "hint: `tokenizer` of the remote model must name",
            ],
        ),
        (
            "fewer",
            [
                "mmlu of model `far`",
                "of question ",
                "no token for the server",
                "hint: `tokenizer` of the remote model must name",
            ],
        ),
    ] {
        let home = home(4096);
        let oracle = Oracle::new(&home);
        let server = Server::start(move |hit| {
            if edit == "refuses" {
                return Reply::refused(400, "unknown parameter");
            }
            if edit == "no ids" {
                return Reply::refused(422, "prompt: expected a string");
            }
            if edit == "leaves out" {
                return Reply::json(json!({ "choices": [{ "text": "x" }] }));
            }
            let mut answer = oracle.answer(hit);
            let entries = answer["choices"][0]["prompt_logprobs"]
                .as_array_mut()
                .unwrap();
            match edit {
                "other token" => {
                    entries[3] = json!({ "79": { "logprob": -0.5, "decoded_token": "x" } });
                }
                "other text" => {
                    let id = hit.body["prompt"][2].to_string();
                    entries[2][id]["decoded_token"] = json!("zebra");
                }
                _ => {
                    entries.pop();
                }
            }
            Reply::json(answer)
        });
        let text = recipe(&server.endpoint(), "models = [\"far\"]");
        home.write(RECIPE, only(&text, "mmlu"));
        println!("{edit}: {}", assert_failure(&home.run(), 1, &parts));
        if edit == "refuses" {
            home.write(RECIPE, only(&text, "perplexity"));
            let parts = ["perplexity of model `far`", "cannot score a given text"];
            println!("{}", assert_failure(&home.run(), 1, &parts));
            let model = far(&server);
            let eval = [
                "eval",
                "hellaswag",
                "--model",
                &model,
                "--tokenizer",
                "tiny",
                "--data",
                "swag.jsonl",
            ];
            let parts = ["hellaswag of model `m`", "cannot score a given text"];
            println!("{}", assert_failure(&home.distill(&eval), 1, &parts));
        }
    }
}

#[test]
fn a_remote_model_without_its_tokenizer_is_told_before_anything_runs() {
    let home = home(4096);
    let server = Server::good();
    let good = recipe(&server.endpoint(), "models = [\"tiny\", \"far\"]");
    for task in ["mmlu", "perplexity"] {
        let stage = only(&good, task).replace("tokenizer = \"tiny\"", "");
        home.write(RECIPE, stage);
        let says = format!("`{task}` asks for the log-probabilities of given tokens");
        let parts = [
            says.as_str(),
            "the remote model `far` has no tokenizer here",
            "--> r.toml:",
            "models = [\"tiny\", \"far\"]",
            "^^^^^",
            "hint: add `tokenizer = \"NAME\"` to the remote model",
        ];
        assert_failure(&home.run(), 2, &parts);
    }
    let acceptance = "task = \"acceptance\"\ntarget = \"tiny\"";
    let acceptance = only(&good, "kmmlu").replace("task = \"kmmlu\"", acceptance);
    home.write(RECIPE, acceptance);
    assert_failure(&home.run(), 2, &["`far`", "remote"]);
    assert_eq!(server.hits().len(), 0);
}

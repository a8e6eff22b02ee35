//! The stage `generate`: remote and local teachers, servers that misbehave, kills, budgets, keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Hit, Reply, Server, chat, question, streamed};

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
fn a_killed_run_asks_again_only_what_was_under_way() {
    let home = Home::new();
    let slow = |hit: &Hit| {
        std::thread::sleep(Duration::from_millis(20));
        Reply::json(chat(hit))
    };
    let server = Server::start(slow);
    recipe(
        &home,
        &server,
        ", concurrency = 8",
        200,
        "candidates = 2\nsampling = { temperature = 0.8 }",
    );
    for at_least in [30, 90, 150] {
        let mut run = home.spawn("runs");
        assert!(run.wait_until(|| server.answered().len() >= at_least));
        run.signal(libc::SIGKILL);
        run.finish();
    }
    assert_success(&home.run());
    let answered = server.answered();
    assert!(answered.len() <= 200 + 3 * 8, "{}", answered.len());
    assert_eq!(answered.iter().collect::<BTreeSet<_>>().len(), 200);
    let records = records(&home, "runs");
    assert_eq!(records.len(), 400);
    let candidates: Vec<&Value> = records.iter().map(|r| &r["lineage"]["candidate"]).collect();
    assert_eq!(&candidates[..4], [0, 1, 0, 1]);
    // What was sent and never came back is on the account.
    let spent = &ledger(&home)["all_runs"];
    assert_eq!(spent["answers"], 200);
    assert!(spent["requests"].as_i64().unwrap() > 200, "{spent}");
    assert!(spent["possibly_tokens"].as_i64().unwrap() > 0, "{spent}");

    // An edited recipe pays for what is new only.
    let before = server.hits().len();
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    home.write(
        RECIPE,
        text.replace("chunk = \"lines\"", "chunk = \"lines\"\nlimit = 150"),
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "fewer"]));
    assert_eq!(server.hits().len(), before);
}

#[test]
fn an_interrupted_run_keeps_what_was_under_way() {
    let home = Home::new();
    let slow = |hit: &Hit| {
        std::thread::sleep(Duration::from_millis(50));
        Reply::json(chat(hit))
    };
    let server = Server::start(slow);
    recipe(&home, &server, ", concurrency = 4", 60, "");
    let mut run = home.spawn("runs");
    assert!(run.wait_until(|| server.answered().len() >= 10));
    run.signal(libc::SIGINT);
    let (status, said) = run.finish();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("stopped in stage 1 after"), "{said}");
    assert!(server.answered().len() < 40);
    assert_success(&home.run());
    assert_eq!(server.hits().len(), 60);
}

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

#[test]
fn a_key_is_never_written() {
    const KEY: &str = "sk-abcdef-0123456789";
    let mut home = Home::new();
    home.set("TEST_KEY", KEY);
    home.set("DISTILL_LOG", "trace");
    let server = Server::start(|hit| match hit.number % 3 {
        0 => Reply::refused(
            500,
            &format!("something is wrong with {}", hit.authorization),
        ),
        _ => {
            let mut answer = chat(hit);
            answer["choices"][0]["message"]["content"] = hit.authorization.clone().into();
            Reply::json(answer)
        }
    });
    recipe(
        &home,
        &server,
        ", key = { env = \"TEST_KEY\" }, backoff_seconds = 0.02",
        20,
        "",
    );
    let output = home.run();
    assert_success(&output);
    assert!(
        server
            .hits()
            .iter()
            .all(|hit| hit.authorization == format!("Bearer {KEY}"))
    );
    let refusing = Server::start(|hit| Reply::refused(401, &format!("no: {}", hit.authorization)));
    recipe(
        &home,
        &refusing,
        ", key = { file = \"key.txt\" }",
        3,
        "system = \"other\"",
    );
    home.write("key.txt", format!("{KEY}\n"));
    let refused = home.run();
    // A stream may cut it anywhere.
    let streaming = Server::start(|hit| {
        let (start, end) = hit.authorization.split_at(16);
        let piece =
            |text: &str| json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        Reply::Stream(match hit.number {
            0 => format!(
                "data: {}\n\n",
                json!({ "error": { "message": hit.authorization } })
            ),
            _ => format!(
                "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
                piece(start),
                piece(end)
            ),
        })
    });
    recipe(
        &home,
        &streaming,
        ", key = { file = \"key.txt\" }, stream = true, backoff_seconds = 0.02",
        3,
        "system = \"a third\"",
    );
    let streamed = home.distill(&["run", RECIPE, "--out", "streamed"]);
    assert_success(&streamed);
    assert_eq!(
        records(&home, "streamed")[0]["messages"][2]["content"],
        "Bearer [key]"
    );
    let shown = stderr(&refused);
    assert!(shown.contains("status 401: no: Bearer [key]"), "{shown}");
    fs::remove_file(home.path("key.txt")).unwrap();
    let holds = |bytes: &[u8]| {
        bytes
            .windows(KEY.len())
            .any(|window| window == KEY.as_bytes())
    };
    for output in [&output, &refused, &streamed] {
        assert!(!holds(&output.stdout) && !holds(&output.stderr));
    }
    let files = files_below(&home.path(""));
    assert!(files.iter().any(|file| file.ends_with("answers.sqlite")));
    for file in files {
        assert!(!holds(&fs::read(&file).unwrap()), "{}", file.display());
    }
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

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

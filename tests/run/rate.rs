//! The stage `rate`: odd judges, pairs, kills, edited recipes, equal answers.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Hit, Reply, Server, question, saying};

/// Records of one `[data.answers]`: (prompt, answer, model).
fn answers(home: &Home, name: &str, records: &[(&str, &str, &str)]) {
    let lines = records.iter().map(|(prompt, answer, model)| {
        let messages = json!([{ "role": "user", "content": prompt }, { "role": "assistant", "content": answer }]);
        json!({ "messages": messages, "lineage": { "model": model, "seed": 0 } }).to_string()
    });
    home.write(name, lines.collect::<Vec<_>>().join("\n"));
}

/// A stage that rates `first` and `second`, with these further keys.
fn recipe(home: &Home, server: &Server, source: &str, stage: &str) {
    home.write(
        "rate.jinja",
        "{{ aspects | length }}|{{ prompt }}|{{ completion }}",
    );
    home.write(
        RECIPE,
        format!(
            r#"
seed = 7
[models.judge]
source = {{ kind = "remote", model = "m", endpoints = ["{}"]{source} }}
[data.first]
source = "first.jsonl"
[data.second]
source = "second.jsonl"
[[stage]]
kind = "rate"
teacher = "judge"
answers = ["first", "second"]
prompt = "rate.jinja"
as = "rated"
{stage}
"#,
            server.endpoint()
        ),
    );
}

/// The answer that is to be rated.
fn completion(hit: &Hit) -> String {
    let asked = question(hit);
    asked.splitn(3, '|').last().unwrap().to_owned()
}

fn all_aspects(rating: u64) -> String {
    let aspect = json!({ "rationale": format!("it is a {rating}"), "rating": rating });
    json!({ "helpfulness": aspect, "honesty": aspect, "instruction_following": aspect, "truthfulness": aspect }).to_string()
}

/// Rates an answer by its length.
fn by_length(hit: &Hit) -> Reply {
    saying(hit, &all_aspects(completion(hit).len().min(5) as u64))
}

fn lines(home: &Home, out: &str, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.stage(out, "rate").join(file)).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn ratings_become_pairs_that_later_stages_take() {
    let home = Home::new();
    let server = Server::start(by_length);
    answers(
        &home,
        "first.jsonl",
        &[
            ("p", "aa", "m1"),
            ("q", "b", "m1"),
            ("p", "aaaa", "m1"),
            ("r", "same", "m1"),
        ],
    );
    // A planted duplicate of `aaaa`, and an answer as good as another.
    answers(
        &home,
        "second.jsonl",
        &[
            ("p", "aaaa", "m2"),
            ("q", "c", "m2"),
            ("r", "same", "m2"),
            ("s", "alone", "m2"),
        ],
    );
    let stage = r#"
[[stage]]
kind = "dedup"
data = "rated"
method = { kind = "exact" }
as = "clean"
[[stage]]
kind = "filter"
data = "clean"
rules = [{ kind = "length", min_characters = 2 }]
"#;
    recipe(&home, &server, "", stage);
    let output = home.run();
    assert_success(&output);
    // Eight answers, of which two are others' duplicates.
    assert_eq!(server.hits().len(), 6);
    let schema = &server.hits()[0].body["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["required"][2], "instruction_following");
    let ratings = lines(&home, "runs", "ratings.jsonl");
    assert_eq!(ratings.len(), 8);
    let groups: Vec<u64> = ratings
        .iter()
        .map(|r| r["group"].as_u64().unwrap())
        .collect();
    assert_eq!(groups, [0, 0, 0, 1, 1, 2, 2, 3]);
    let first = &ratings[0];
    assert_eq!(first["answer"], "aa");
    assert_eq!(
        first["ratings"]["honesty"],
        json!({ "rating": 2, "rationale": "it is a 2" })
    );
    assert_eq!(
        (&first["mean"], &first["model"]),
        (&json!(2.0), &json!("m1"))
    );
    let lineage = &first["lineage"];
    assert_eq!(lineage["answer"]["lineage"]["model"], "m1");
    assert_eq!(lineage["judgement"]["model"], "m");
    assert_eq!(
        lineage["judgement"]["requests"].as_array().unwrap().len(),
        1
    );

    let pairs = lines(&home, "runs", "data.jsonl");
    assert_eq!(pairs.len(), 1);
    let pair = &pairs[0];
    assert_eq!(pair["prompt"], json!([{ "role": "user", "content": "p" }]));
    assert_eq!(
        pair["chosen"],
        json!([{ "role": "assistant", "content": "aaaa" }])
    );
    assert_eq!(
        pair["rejected"],
        json!([{ "role": "assistant", "content": "aa" }])
    );
    assert_eq!(
        (&pair["score_chosen"], &pair["margin"]),
        (&json!(4.0), &json!(2.0))
    );
    assert_eq!(pair["lineage"]["rejected"]["answer"]["record"], 0);
    let kept = fs::read_to_string(home.stage("runs", "filter").join("data.jsonl")).unwrap();
    assert_eq!(kept.trim(), pair.to_string());
    let shown = stdout(&output);
    for part in [
        "rate: 8 of 8 answers to 4 prompts",
        "fewer than two rated answers that differ           2   50.0 %",
        "equal scores                                       1   25.0 %",
        "pairs                                              1   25.0 %",
        "m1                     4       2.750",
        "m2                     4       3.500",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    // Another form of the same ratings asks nothing.
    recipe(&home, &server, "", "keep = \"best\"\nseed = 3");
    assert_success(&home.distill(&["run", RECIPE, "--out", "best"]));
    assert_eq!(server.hits().len(), 6);
    let best = lines(&home, "best", "data.jsonl");
    assert_eq!(best.len(), 4);
    assert_eq!(
        best[0]["messages"][1],
        json!({ "role": "assistant", "content": "aaaa" })
    );
    assert_eq!(best[3]["score"], 5.0);
}

#[test]
fn the_best_answers_can_be_learned() {
    let home = Home::new();
    let server = Server::start(by_length);
    answers(
        &home,
        "first.jsonl",
        &[("Who?", "me", "m1"), ("Where?", "here", "m1")],
    );
    answers(
        &home,
        "second.jsonl",
        &[("Who?", "him", "m2"), ("Where?", "no", "m2")],
    );
    let stage = r#"
keep = "best"
aspects = ["helpfulness", "honesty"]
[models.tiny]
source = "tiny"
[[stage]]
kind = "sft"
model = "tiny"
data = "rated"
steps = 2
sequence_length = 64
tokens_per_step = 64
chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
"#;
    recipe(&home, &server, "", stage);
    assert_success(&home.run());
    assert!(server.answered().contains(&"2|Who?|him".to_owned()));
    assert!(
        home.stage("runs", "sft")
            .join("model/model.safetensors")
            .exists()
    );
}

#[test]
fn what_an_odd_judge_says_is_counted_and_never_guessed() {
    let home = Home::new();
    let server = Server::start(|hit| match completion(hit).as_str() {
        "broken" => saying(hit, r#"{"helpfulness": {"rationale": "cut in the mid"#),
        "none" => saying(hit, "A fine answer."),
        "beyond" => saying(hit, &all_aspects(11)),
        "empty" => saying(hit, "  "),
        "refused" => Reply::refused(400, "too long"),
        "fenced" => saying(hit, &format!("So:\n```json\n{}\n```", all_aspects(4))),
        _ => saying(
            hit,
            "Helpfulness: 1/5\nHonesty: 2\nInstruction following: 3\nTruthfulness: **4** - well",
        ),
    });
    let odd = [
        "broken", "none", "beyond", "empty", "refused", "fenced", "lines",
    ];
    let records: Vec<_> = odd.iter().map(|answer| ("p", *answer, "m1")).collect();
    answers(&home, "first.jsonl", &records);
    answers(&home, "second.jsonl", &[("q", "none", "m2")]);
    recipe(&home, &server, ", retries = 1", "");
    let output = home.run();
    assert_success(&output);
    let shown = stderr(&output);
    for part in [
        "2 ratings of 8 answers",
        "1 dropped whose prompt the teacher refuses",
        "1 dropped with an empty answer",
        "3 dropped without a rating of each aspect (no number for `helpfulness`",
        "1 dropped whose ratings are not all whole numbers from 1 to 5 (`helpfulness`: `11`)",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    assert!(
        stdout(&output).contains("no rated answer"),
        "{}",
        stdout(&output)
    );
    let pair = &lines(&home, "runs", "data.jsonl")[0];
    assert_eq!(pair["chosen"][0]["content"], "fenced");
    assert_eq!(pair["score_rejected"], 2.5);
    let counts = read_json(&home.stage("runs", "rate").join("counts.json"));
    assert_eq!(counts["dropped"], json!({ "not_rated": 1 }));
}

#[test]
fn a_killed_run_asks_nothing_twice_and_an_edited_one_what_is_new() {
    let home = Home::new();
    let server = Server::start(|hit| {
        std::thread::sleep(Duration::from_millis(20));
        by_length(hit)
    });
    let text: Vec<(String, String)> = (0..120)
        .map(|number| {
            (
                format!("p{}", number / 3),
                format!("{}{}", "x".repeat(number % 3), number),
            )
        })
        .collect();
    let records: Vec<_> = text
        .iter()
        .map(|(p, a)| (p.as_str(), a.as_str(), "m1"))
        .collect();
    answers(&home, "first.jsonl", &records[..90]);
    answers(&home, "second.jsonl", &records[90..]);
    recipe(&home, &server, ", concurrency = 4", "");
    for at_least in [20, 60] {
        let mut run = home.spawn("runs");
        assert!(run.wait_until(|| server.answered().len() >= at_least));
        run.signal(libc::SIGKILL);
        run.finish();
    }
    assert_success(&home.run());
    let asked = server.answered();
    assert!(asked.len() <= 120 + 2 * 4, "{}", asked.len());
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 120);
    let file = |out| fs::read(home.stage(out, "rate").join("data.jsonl")).unwrap();
    let hits = server.hits().len();
    assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
    assert_eq!(server.hits().len(), hits);
    assert_eq!(file("runs"), file("again"));
    // The other seed draws other rejected answers, or makes no difference to what is asked.
    recipe(
        &home,
        &server,
        ", concurrency = 4",
        "seed = 8\nsampling = { seed = 7 }",
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "seed"]));
    assert_eq!(server.hits().len(), hits);
    assert_ne!(file("runs"), file("seed"));
    // One more answer is one more request.
    let more: Vec<_> = records[90..]
        .iter()
        .copied()
        .chain([("p1", "new", "m1")])
        .collect();
    answers(&home, "second.jsonl", &more);
    assert_success(&home.distill(&["run", RECIPE, "--out", "more"]));
    assert_eq!(server.hits().len(), hits + 1);
}

#[test]
fn a_judge_on_this_machine_is_asked_without_a_schema() {
    let home = Home::new();
    let config = fs::read_to_string(home.path("tiny/tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}:".into();
    home.write("tiny/tokenizer_config.json", config.to_string());
    answers(&home, "first.jsonl", &[("p", "a", "m1")]);
    answers(&home, "second.jsonl", &[("p", "b", "m2")]);
    let server = Server::good();
    let stage = "sampling = { max_tokens = 4 }\n[models.tiny]\nsource = \"tiny\"";
    recipe(&home, &server, "", stage);
    let set = ["run", RECIPE, "--set", "stage.rated.teacher=tiny"];
    // It says nothing that makes sense, which is told.
    let parts = [
        "none of the answers has a usable answer",
        "without a rating of each aspect",
    ];
    assert_failure(&home.distill(&set), 1, &parts);
    let with = [set.as_slice(), &["--set", "stage.rated.schema=true"]].concat();
    assert_failure(
        &home.distill(&with),
        2,
        &["`schema` needs a remote teacher"],
    );
    assert!(server.hits().is_empty());
}

#[test]
fn what_is_wrong_is_told() {
    let home = Home::new();
    let server = Server::start(by_length);
    answers(&home, "first.jsonl", &[("p", "aa", "m1"), ("q", "b", "m1")]);
    answers(&home, "second.jsonl", &[("p", "bb", "m2")]);
    let run = |source: &str, stage: &str, code, parts: &[&str]| {
        recipe(&home, &server, source, stage);
        assert_failure(&home.run(), code, parts);
    };
    let parts = [
        "none of 2 prompts makes a pair: 1 with fewer than two rated answers that differ, 1 with equal scores",
        "ratings.jsonl",
        "hint: ",
    ];
    run("", "", 1, &parts);
    for (stage, parts) in [
        ("keep = \"all\"", ["unknown value `all`", "r.toml"]),
        ("aspects = []", ["`aspects` names none", "r.toml"]),
        (
            "aspects = [\"Is it good?\"]",
            ["is no aspect: small letters", "r.toml"],
        ),
        (
            "aspects = [\"honesty\", \"honesty\"]",
            ["`honesty` is listed twice", "r.toml"],
        ),
        (
            "sampling = { top_p = 0.0 }",
            ["`top_p` is above 0", "r.toml"],
        ),
        (
            "budget = { dollars = 1.0 }",
            ["needs the model's `price`", "r.toml"],
        ),
        (
            "aspect = []",
            ["unknown key `aspect`", "did you mean `aspects`?"],
        ),
    ] {
        run("", stage, 2, &parts);
    }
    home.write("bad.jinja", "{{ answer_a }}");
    recipe(&home, &server, "", "");
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    home.write(RECIPE, text.replace("rate.jinja", "bad.jinja"));
    let parts =
        ["bad.jinja: unknown variable `answer_a`; there are prompt, completion, messages, aspects"];
    assert_failure(&home.run(), 2, &parts);
    home.write(
        RECIPE,
        text.replace("[\"first\", \"second\"]", "[\"first\", \"first\"]"),
    );
    assert_failure(&home.run(), 2, &["`first` is listed twice"]);
    home.write(RECIPE, text.replace("[\"first\", \"second\"]", "[]"));
    assert_failure(&home.run(), 2, &["`answers` names no data"]);
    home.write(
        "second.jsonl",
        r#"{"messages":[{"role":"user","content":"p"}]}"#,
    );
    home.write(RECIPE, text);
    let parts = [
        "data `second`",
        "none of its 1 records has an answer",
        "hint: ",
    ];
    assert_failure(&home.run(), 1, &parts);
}

#[test]
fn a_budget_stops_the_rating_and_a_larger_one_goes_on() {
    let home = Home::new();
    let server = Server::start(by_length);
    let text: Vec<String> = (0..20)
        .map(|number| format!("{}", 10_u64.pow(number % 4)))
        .collect();
    let records: Vec<_> = text
        .iter()
        .map(|answer| ("p", answer.as_str(), "m1"))
        .collect();
    let unique: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
    let records: Vec<_> = (unique.iter().zip(&records))
        .map(|(p, r)| (p.as_str(), r.1, r.2))
        .collect();
    answers(&home, "first.jsonl", &records);
    answers(&home, "second.jsonl", &[("p0", "aaa", "m2")]);
    let stage = "sampling = { max_tokens = 20 }\nbudget = { tokens = 200 }";
    recipe(&home, &server, ", concurrency = 2", stage);
    assert_failure(
        &home.run(),
        1,
        &["the budget of this stage is reached", "raise `budget`"],
    );
    let hits = server.hits().len();
    assert!(hits < 12, "{hits}");
    let larger = ["run", RECIPE, "--set", "stage.rated.budget.tokens=5000"];
    assert_success(&home.distill(&larger));
    assert_eq!(server.hits().len(), 21);
}

//! The stage `generate` that writes instructions: lists from a pool, harder ones from seeds, and what answers them.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Hit, Server, question, saying};

const SELF_INSTRUCT: &str = r#"mode = { kind = "self_instruct", prompt = "list.jinja", instructions = 30, shots = 4, requests_per_round = 5, max_requests = 60 }
sampling = { temperature = 0.7 }"#;

const EVOL_INSTRUCT: &str = r#"mode = { kind = "evol_instruct", depth = "depth.jinja", breadth = "breadth.jinja", judge = "judge.jinja", rounds = 3 }"#;

/// A server that writes, its seeds, its templates, and a stage with these keys.
fn recipe(home: &Home, server: &Server, source: &str, stage: &str) {
    let seeds = [
        "Name a river",
        "Add two numbers: 3, 5",
        "Why is the sky blue?",
        "Translate `cat`",
        "Say something about tea",
        "What does a compiler do?",
    ];
    home.write("seeds.txt", seeds.join("\n"));
    home.write(
        "list.jinja",
        "list {{ count }}:{% for e in examples %} [{{ e }}]{% endfor %}",
    );
    home.write("depth.jinja", "{{ operation }}: {{ instruction }}");
    home.write("breadth.jinja", "other than: {{ instruction }}");
    home.write("judge.jinja", "compare {{ before }} | {{ after }}");
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
as = "made"
{stage}
"#,
            server.endpoint()
        ),
    );
}

/// A number that follows from the question and the seed.
fn hash(hit: &Hit) -> u64 {
    let text = format!("{}{}", question(hit), hit.body["seed"]);
    (text.bytes()).fold(7, |hash: u64, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    })
}

/// Lists of three: one that is new, one that is too short, one that is the same each time. A tenth are no lists.
fn list(hit: &Hit) -> String {
    let hash = hash(hit);
    let word = |at: u32| format!("w{}", hash.wrapping_mul(2 * u64::from(at) + 3) % 9973);
    let words: Vec<String> = (0..6).map(word).collect();
    match hash % 10 {
        0 => "I would rather not.".into(),
        _ => format!(
            "<think>1. Tell of what?</think>Here you are:\n1. Tell of {}\n2. Two words\n3. Write a poem about the sea and the wind",
            words.join(" ")
        ),
    }
}

/// What a teacher says to the templates above, good and bad.
fn evolve(hit: &Hit) -> String {
    let asked = question(hit);
    let Some((head, rest)) = asked
        .split_once(": ")
        .filter(|_| !asked.starts_with("compare"))
    else {
        return match asked.strip_prefix("compare ") {
            Some(both) if both.contains("same thing") => "Same.".into(),
            Some(_) => "<think>The same?</think>Different".into(),
            None if asked.contains("impossible") => "Sorry, I cannot.".into(),
            None => format!("answer to {asked}"),
        };
    };
    match (head, hash(hit) % 8) {
        (_, 0) => rest.to_uppercase(),
        (_, 1) => format!("#Rewritten Prompt#: {rest}"),
        (_, 2) => "do the same thing".into(),
        (_, 3) => "do what is impossible".into(),
        _ => format!("<think>do the same thing</think>{rest} and {head}"),
    }
}

fn records(home: &Home, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.stage(out, "generate").join("data.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn bytes(home: &Home, out: &str) -> Vec<u8> {
    fs::read(home.stage(out, "generate").join("data.jsonl")).unwrap()
}

fn dropped(home: &Home) -> Value {
    let ledger = read_json(&home.stage("runs", "generate").join("ledger.json"));
    ledger["last_run"]["outcome"]["dropped"].clone()
}

#[test]
fn a_pool_grows_the_same_whichever_answer_comes_first() {
    let make = |concurrency: usize, delay: fn(u64) -> u64| {
        let home = Home::new();
        let server = Server::start(move |hit| {
            std::thread::sleep(Duration::from_millis(delay(hash(hit))));
            saying(hit, &list(hit))
        });
        let source = format!(", concurrency = {concurrency}");
        recipe(&home, &server, &source, SELF_INSTRUCT);
        let output = home.run();
        assert_success(&output);
        (home, server, output)
    };
    let (home, server, output) = make(5, |hash| hash % 30);
    let (other, _server, _) = make(2, |hash| 29 - hash % 30);
    assert_eq!(bytes(&home, "runs"), bytes(&other, "runs"));

    let records = records(&home, "runs");
    assert_eq!(records.len(), 30);
    let first = &records[0];
    assert_eq!(first["messages"].as_array().unwrap().len(), 1);
    assert_eq!(first["messages"][0]["role"], "user");
    let lineage = &first["lineage"];
    assert_eq!(
        (&lineage["request"], &lineage["item"]),
        (&0.into(), &0.into())
    );
    assert_eq!(lineage["examples"].as_array().unwrap().len(), 4);
    assert_eq!(lineage["examples"][0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(lineage["parameters"]["seed"], 7);
    // Later requests show two of those that were made.
    let last = &records[29]["lineage"];
    let made = last["examples"].as_array().unwrap().iter();
    assert_eq!(made.filter(|example| example["made"].is_u64()).count(), 2);

    let dropped = dropped(&home);
    let requests = server.hits().len() as i64;
    assert_eq!(requests % 5, 0);
    assert!(dropped["not_a_list"].as_i64().unwrap() > 0, "{dropped}");
    assert!(dropped["too_short"].as_i64().unwrap() > 20, "{dropped}");
    assert!(dropped["similar"].as_i64().unwrap() > 20, "{dropped}");
    let shown = stderr(&output);
    let told = format!("data: 30 instructions of {requests} requests; ");
    assert!(shown.contains(&told), "{shown}");
    assert!(
        shown.contains("dropped that are much like another"),
        "{shown}"
    );

    // More of them begin with these, and ask nothing of that again.
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    home.write(
        RECIPE,
        text.replace("instructions = 30", "instructions = 33"),
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "more"]));
    let more = bytes(&home, "more");
    assert!(more.starts_with(&bytes(&home, "runs")[..200]));
    assert!(server.hits().len() as i64 <= requests + 5);
}

#[test]
fn a_pool_ends_with_its_requests() {
    let home = Home::new();
    let server = Server::start(|hit| saying(hit, &list(hit)));
    let stage = SELF_INSTRUCT.replace("max_requests = 60", "max_requests = 7");
    recipe(&home, &server, "", &stage);
    assert_success(&home.run());
    assert_eq!(server.hits().len(), 7);
    assert!(records(&home, "runs").len() < 10);

    let home = Home::new();
    let nothing = Server::start(|hit| saying(hit, "1. Two words"));
    recipe(&home, &nothing, "", &stage);
    let parts = ["none of the requests has a usable answer", "too short"];
    assert_failure(&home.run(), 1, &parts);
}

#[test]
fn killed_runs_ask_again_only_what_was_under_way() {
    for (stage, say) in [
        (SELF_INSTRUCT, list as fn(&Hit) -> String),
        (EVOL_INSTRUCT, evolve),
    ] {
        let start = || {
            Server::start(move |hit| {
                std::thread::sleep(Duration::from_millis(30));
                saying(hit, &say(hit))
            })
        };
        let (home, whole) = (Home::new(), start());
        recipe(&home, &whole, ", concurrency = 4", stage);
        assert_success(&home.run());
        let expected = bytes(&home, "runs");

        let (home, server) = (Home::new(), start());
        recipe(&home, &server, ", concurrency = 4", stage);
        let all = whole.answered().len();
        for share in [4, 2] {
            let mut run = home.spawn("runs");
            assert!(run.wait_until(|| server.answered().len() >= all / share));
            run.signal(libc::SIGKILL);
            run.finish();
        }
        assert_success(&home.run());
        assert_eq!(bytes(&home, "runs"), expected);
        let asked = server.answered().len();
        assert!(asked <= all + 2 * 4, "{asked} of {all}");
        assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
        assert_eq!(server.answered().len(), asked);
    }
}

#[test]
fn seeds_evolve_level_by_level_and_losses_are_counted() {
    let home = Home::new();
    let server = Server::start(|hit| saying(hit, &evolve(hit)));
    recipe(&home, &server, "", EVOL_INSTRUCT);
    let output = home.run();
    assert_success(&output);
    let records = records(&home, "runs");
    let mut steps = 0;
    for pair in records.windows(2) {
        let [before, after] = [&pair[0]["lineage"], &pair[1]["lineage"]];
        let level = after["level"].as_u64().unwrap() as usize;
        let operations = after["operations"].as_array().unwrap();
        assert_eq!(operations.len(), level);
        assert_eq!(after["prompts"].as_array().unwrap().len(), level);
        // Each step was written, compared and answered.
        assert_eq!(after["requests"].as_array().unwrap().len(), 3 * level);
        if level > 0 {
            steps += 1;
            assert_eq!(before["level"], level as u64 - 1);
            assert_eq!(before["seed"], after["seed"]);
            assert_eq!(before["seed_digest"], after["seed_digest"]);
            assert_ne!(pair[0]["messages"], pair[1]["messages"]);
            assert!(!pair[1]["messages"].to_string().contains("think"));
        }
    }
    let seeds = records.iter().filter(|r| r["lineage"]["level"] == 0);
    assert_eq!(seeds.count(), 6);
    let dropped = dropped(&home);
    let lost: i64 = (dropped.as_object().unwrap().values())
        .map(|count| count.as_i64().unwrap())
        .sum();
    assert_eq!(steps + lost, 18);
    assert!(steps > 4 && lost > 4, "{steps} {dropped}");
    let shown = stderr(&output);
    assert!(
        shown.contains(&format!("{} instructions of 6 seeds", 6 + steps)),
        "{shown}"
    );
    assert!(dropped.as_object().unwrap().len() >= 3, "{dropped}");
}

#[test]
fn a_chain_from_seeds_to_a_student() {
    let home = Home::new();
    let server = Server::start(|hit| match question(hit) {
        asked if asked.starts_with("list") => saying(hit, &list(hit)),
        _ => saying(hit, &evolve(hit)),
    });
    let stage = format!(
        r#"{}
[[stage]]
kind = "generate"
teacher = "judge"
prompts = "made"
as = "evolved"
mode = {{ kind = "evol_instruct", depth = "depth.jinja", breadth = "breadth.jinja", rounds = 1, operations = ["deepen"] }}
[[stage]]
kind = "generate"
teacher = "judge"
prompts = "evolved"
as = "answers"
[[stage]]
kind = "filter"
data = "answers"
rules = [{{ kind = "length", min_words = 2 }}]
as = "clean"
[models.tiny]
source = "tiny"
[[stage]]
kind = "sft"
model = "tiny"
data = "clean"
steps = 2
sequence_length = 64
tokens_per_step = 64
chat_template = "{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}}\n{{% endfor %}}"
"#,
        SELF_INSTRUCT.replace("30", "6")
    );
    recipe(&home, &server, "", &stage);
    let output = home.run();
    assert_success(&output);
    assert_eq!(stdout(&output).matches("data.jsonl").count(), 4);
    let sft = home.stage("runs", "sft");
    assert!(sft.join("model/model.safetensors").exists());
    // Each evolved instruction was answered once, when it was tried.
    let questions = server.answered();
    let distinct: std::collections::BTreeSet<_> = questions.iter().collect();
    assert_eq!(questions.len(), distinct.len(), "{questions:?}");
}

#[test]
fn what_is_wrong_is_told() {
    let home = Home::new();
    let server = Server::good();
    let told = |stage: &str, parts: &[&str]| {
        recipe(&home, &server, "", stage);
        assert_failure(&home.run(), 2, parts);
    };
    let in_mode = |from: &str, to: &str| SELF_INSTRUCT.replace(from, to);
    told(
        "mode = \"self_instrukt\"",
        &["unknown value `self_instrukt`", "self_instruct"],
    );
    told(
        &in_mode("shots", "shotz"),
        &["unknown key `shotz`", "`shots`?"],
    );
    told(
        &in_mode("shots = 4", "shots = 1"),
        &["a part of `shots`", "r.toml:13"],
    );
    told(
        &in_mode("list.jinja", "depth.jinja"),
        &["unknown variable `instruction`", "examples, count"],
    );
    told(
        &format!("{SELF_INSTRUCT}\ncandidates = 2"),
        &["`candidates` belongs to answering"],
    );
    told(
        &EVOL_INSTRUCT.replace("rounds = 3", "rounds = 0"),
        &["`rounds` must be at least 1"],
    );
    told(
        &EVOL_INSTRUCT.replace("rounds", "operations = [\"deepn\"], rounds"),
        &["did you mean `deepen`?"],
    );

    home.write(
        "endless.jinja",
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ prompt }}{% endfor %}{% endfor %}",
    );
    recipe(&home, &server, "", "prompt = \"endless.jinja\"");
    let parts = [
        "endless.jinja",
        "does not come to an end",
        "hint: look at its loops",
    ];
    assert_failure(&home.run(), 1, &parts);
    assert!(server.hits().is_empty());
}

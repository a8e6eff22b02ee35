//! The stage `judge`: both orders, odd verdicts, kills, what is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};
use crate::server::{Hit, Reply, Server, question, saying};

fn answers(home: &Home, name: &str, records: &[(&str, &str)]) {
    let lines = records
        .iter()
        .map(|(prompt, answer)| json!({ "prompt": prompt, "completion": answer }).to_string());
    home.write(name, lines.collect::<Vec<_>>().join("\n"));
}

fn recipe(home: &Home, server: &Server, source: &str, stage: &str) {
    home.write("judge.jinja", "{{ prompt }}|{{ answer_a }}|{{ answer_b }}");
    home.write(
        RECIPE,
        format!(
            r#"
[models.judge]
source = {{ kind = "remote", model = "m", endpoints = ["{}"]{source} }}
[data.left]
source = "left.jsonl"
[data.right]
source = "right.jsonl"
[[stage]]
kind = "judge"
teacher = "judge"
a = "left"
b = "right"
prompt = "judge.jinja"
as = "verdicts"
{stage}
"#,
            server.endpoint()
        ),
    );
}

fn verdict(hit: &Hit, winner: &str) -> Reply {
    saying(
        hit,
        &json!({ "rationale": format!("because {winner}"), "winner": winner }).to_string(),
    )
}

/// The longer one wins.
fn by_length(hit: &Hit) -> Reply {
    let asked = question(hit);
    let parts: Vec<&str> = asked.split('|').collect();
    verdict(
        hit,
        match parts[1].len().cmp(&parts[2].len()) {
            std::cmp::Ordering::Greater => "A",
            std::cmp::Ordering::Less => "B",
            std::cmp::Ordering::Equal => "tie",
        },
    )
}

fn lines(home: &Home, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(home.stage(out, "judge").join("data.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn both_orders_are_asked_and_have_to_agree() {
    let home = Home::new();
    let server = Server::start(|hit| match question(hit).split('|').next().unwrap() {
        // One that likes what it reads first.
        "biased" => verdict(hit, "A"),
        "half" if question(hit) == "half|l|r" => verdict(hit, "A"),
        "half" => verdict(hit, "tie"),
        "brackets" => saying(
            hit,
            if question(hit) == "brackets|l|r" {
                "I like it. [[A]]"
            } else {
                "Hm. [[B]]"
            },
        ),
        "mute" => saying(hit, "Both have merits."),
        "several" => saying(hit, "[[A]] [[B]]"),
        _ => by_length(hit),
    });
    let of = |long: &'static str, short: &'static str, side: &'static str| {
        [
            ("one", long),
            ("two", long),
            ("three", short),
            ("four", "eq"),
            ("same", "just this"),
            ("biased", side),
            ("half", side),
            ("brackets", side),
            ("mute", side),
            ("several", side),
        ]
    };
    answers(&home, "left.jsonl", &of("longer", "s", "l"));
    let mut right = of("short", "longest", "r").to_vec();
    right[3] = ("four", "qe");
    right.push(("elsewhere", "r"));
    right.reverse();
    answers(&home, "right.jsonl", &right);
    recipe(&home, &server, "", "");
    let output = home.run();
    assert_success(&output);
    // Nobody is asked about equal answers; a mute judge is not asked again.
    assert_eq!(server.hits().len(), 2 * 7 + 2);
    let found = lines(&home, "runs");
    let winners: Vec<&str> = found
        .iter()
        .map(|line| line["winner"].as_str().unwrap())
        .collect();
    assert_eq!(winners, ["a", "a", "b", "tie", "tie", "tie", "tie", "a"]);
    assert_eq!(
        found[0]["prompt"],
        json!([{ "role": "user", "content": "one" }])
    );
    assert_eq!(
        (&found[0]["a"], &found[0]["b"]),
        (&json!("longer"), &json!("short"))
    );
    let expected = json!([
        { "verdict": "first", "winner": "a", "rationale": "because A" },
        { "verdict": "second", "winner": "a", "rationale": "because B" },
    ]);
    assert_eq!(found[0]["verdicts"], expected);
    assert_eq!(found[4]["verdicts"], json!([]));
    assert_eq!(found[0]["lineage"]["b"]["record"], 10);
    assert_eq!(
        found[0]["lineage"]["judgement"]["requests"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(
        stderr(&output).contains("2 dropped without one verdict"),
        "{}",
        stderr(&output)
    );
    let shown = stdout(&output);
    // Scores: three wins, a loss, four ties; 11 verdicts are for one of both, 7 of them for the first.
    for part in [
        "judge: left against right",
        "left wins                        3",
        "right wins                       1",
        "ties                             1",
        "inconsistent, so ties            2",
        "equal answers, so ties           1",
        "not judged                       2",
        "without a counterpart            1",
        "win rate of left: 62.5 % (std error 12.5), ties count half",
        "position bias: 63.6 % of 11 verdicts are for the answer shown first",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let counts = read_json(&home.stage("runs", "judge").join("counts.json"));
    assert_eq!(
        (&counts["decided"], &counts["for_first"]),
        (&json!(11), &json!(7))
    );
}

#[test]
fn a_killed_run_asks_nothing_twice_and_an_edited_one_what_is_new() {
    let home = Home::new();
    let server = Server::start(|hit| {
        std::thread::sleep(Duration::from_millis(20));
        by_length(hit)
    });
    let text: Vec<(String, String)> = (0..60)
        .map(|number| {
            (
                format!("p{number}"),
                format!("{}{number}", "x".repeat(number % 3)),
            )
        })
        .collect();
    let side: Vec<_> = text.iter().map(|(p, a)| (p.as_str(), a.as_str())).collect();
    let other: Vec<_> = text.iter().map(|(p, _)| (p.as_str(), "medium")).collect();
    answers(&home, "left.jsonl", &side);
    answers(&home, "right.jsonl", &other);
    recipe(&home, &server, ", concurrency = 4", "");
    for at_least in [20, 70] {
        let mut run = home.spawn("runs");
        assert!(run.wait_until(|| server.answered().len() >= at_least));
        run.signal(libc::SIGKILL);
        run.finish();
    }
    assert_success(&home.run());
    let asked = server.answered();
    assert!(asked.len() <= 120 + 2 * 4, "{}", asked.len());
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 120);
    let hits = server.hits().len();
    // The other way round the same questions are asked.
    let turned = [
        "run",
        RECIPE,
        "--out",
        "turned",
        "--set",
        "stage.verdicts.a=right",
        "--set",
        "stage.verdicts.b=left",
    ];
    assert_success(&home.distill(&turned));
    assert_eq!(server.hits().len(), hits);
    let flipped = |winner: &Value| match winner.as_str() {
        Some("a") => "b",
        Some("b") => "a",
        _ => "tie",
    };
    for (one, other) in lines(&home, "runs").iter().zip(lines(&home, "turned")) {
        assert_eq!(other["winner"], flipped(&one["winner"]));
    }
    answers(
        &home,
        "right.jsonl",
        &[&other[..59], &[("p59", "another")]].concat(),
    );
    assert_success(&home.distill(&["run", RECIPE, "--out", "edited"]));
    assert_eq!(server.hits().len(), hits + 2);
}

#[test]
fn what_is_wrong_is_told() {
    let home = Home::new();
    let server = Server::start(by_length);
    answers(&home, "left.jsonl", &[("p", "aa")]);
    answers(&home, "right.jsonl", &[("q", "b")]);
    let run = |stage: &str, code, parts: &[&str]| {
        recipe(&home, &server, "", stage);
        assert_failure(&home.run(), code, parts);
    };
    run(
        "",
        1,
        &["`left` and `right` have no prompt in common", "hint: "],
    );
    let scores = "[[stage]]\nkind = \"dedup\"\nmethod = { kind = \"exact\" }\ndata = \"verdicts\"";
    run(
        scores,
        2,
        &["`verdicts` is a table of scores, data is wanted here"],
    );
    run("orders = 2", 2, &["unknown key `orders`"]);
    run(
        "budget = { dollars = 1.0 }",
        2,
        &["needs the model's `price`"],
    );
    recipe(&home, &server, "", "");
    let text = fs::read_to_string(home.path(RECIPE)).unwrap();
    home.write(RECIPE, text.replace("b = \"right\"", "b = \"left\""));
    assert_failure(&home.run(), 2, &["`a` and `b` are the same data"]);
    home.write("judge.jinja", "{{ completion }}");
    home.write(RECIPE, text);
    let parts = ["unknown variable `completion`; there are prompt, messages, answer_a, answer_b"];
    assert_failure(&home.run(), 2, &parts);
    home.write("judge.jinja", "{{ prompt }}|{{ answer_a }}|{{ answer_b }}");
    home.write("right.jsonl", r#"{"text": "no answer"}"#);
    assert_failure(&home.run(), 1, &["data `right`", "no known layout"]);
    assert!(server.hits().is_empty());
}

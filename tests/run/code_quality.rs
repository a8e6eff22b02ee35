//! The stage `code_quality`: labels of a teacher or of a column, the forest, what is kept, kills and bad input.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stdout};
use crate::server::{Hit, Reply, Server, chat, question, saying};

const COUNT: usize = 60;

/// Every third teaches something.
fn teaches(number: usize) -> bool {
    number.is_multiple_of(3)
}

fn text(number: usize) -> String {
    match teaches(number) {
        true => format!("def add_{number}(a, b):\n    # the sum of both\n    return a + b"),
        false => format!("VALUE_{number} = {{1: 2, 3: 4, 5: {number}}}; X = [{number}, 0, 0, 0]"),
    }
}

fn score(text: &str) -> u32 {
    if text.contains("return") { 4 } else { 1 }
}

fn home(server: &Server, stage: &str) -> Home {
    let home = Home::new();
    let line = |number: usize| {
        let text = text(number);
        let label = (number != 5).then(|| score(&text));
        format!(
            "{}\n",
            json!({ "id": number, "text": text, "grade": label })
        )
    };
    let mut lines: String = (0..COUNT).map(line).collect();
    lines += "{\"id\":  99, \"text\": \"  \", \"grade\": 3}\n";
    home.write("corpus.jsonl", lines);
    home.write("value.jinja", "How much is it worth?\n{{ prompt }}");
    home.write(
        RECIPE,
        format!(
            r#"
seed = 7
[models.judge]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], concurrency = 4 }}
[models.tiny]
source = "tiny"
[data.corpus]
source = "corpus.jsonl"
[[stage]]
kind = "code_quality"
data = "corpus"
embedder = "tiny"
max_tokens = 32
trees = 20
as = "good"
{stage}
"#,
            server.endpoint()
        ),
    );
    home
}

const BY_TEACHER: &str = "teacher = \"judge\"\nprompt = \"value.jinja\"\nlabelled = 40";

fn scoring(hit: &Hit) -> Reply {
    let said = json!({ "rationale": "so it is", "score": score(&question(hit)) });
    saying(hit, &said.to_string())
}

fn lines(home: &Home, out: &str, file: &str) -> Vec<Value> {
    let path = home.stage(out, "code_quality").join(file);
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_forest_learns_what_the_teacher_says_and_judges_all_records() {
    let server = Server::start(scoring);
    let home = home(&server, BY_TEACHER);
    let output = home.run();
    assert_success(&output);
    assert_eq!(server.hits().len(), 40);

    let labels = lines(&home, "runs", "labels.jsonl");
    assert_eq!(labels.len(), 40);
    for label in &labels {
        let number = label["record"].as_u64().unwrap() as usize - 1;
        assert_eq!(label["high"], teaches(number));
        assert_eq!(label["score"], if teaches(number) { 4.0 } else { 1.0 });
        assert_eq!(label["rationale"], "so it is");
        assert_eq!(label["lineage"]["model"], "m");
        assert_eq!(label["lineage"]["requests"].as_array().unwrap().len(), 1);
    }
    let forest = read_json(&home.stage("runs", "code_quality").join("forest.json"));
    assert_eq!(forest["labels"], 40);
    assert_eq!(forest["held_out"]["auc"], 1.0, "{forest}");

    let kept = lines(&home, "runs", "data.jsonl");
    let expected: Vec<usize> = (0..COUNT).filter(|&number| teaches(number)).collect();
    let found: Vec<u64> = kept.iter().map(|r| r["id"].as_u64().unwrap()).collect();
    assert_eq!(
        found,
        expected.iter().map(|&n| n as u64).collect::<Vec<_>>()
    );
    assert_eq!(kept[0]["grade"], 4);
    let dropped = lines(&home, "runs", "dropped.jsonl");
    assert_eq!(dropped.len(), 41);
    assert_eq!(dropped[0]["rule"], "low quality");
    assert!(
        dropped[0]["detail"]
            .as_str()
            .unwrap()
            .starts_with("probability 0.")
    );
    assert_eq!(dropped[40]["rule"], "no text");
    let counts = read_json(&home.stage("runs", "code_quality").join("counts.json"));
    assert_eq!(
        (&counts["records"], &counts["kept"]),
        (&json!(61), &json!(20))
    );
    assert!(stdout(&output).contains("AUC 1.000"), "{}", stdout(&output));

    // Again elsewhere: nothing is asked, and everything is the same.
    assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
    assert_eq!(server.hits().len(), 40);
    for file in ["data.jsonl", "labels.jsonl", "forest.json", "dropped.jsonl"] {
        let bytes = |out| fs::read(home.stage(out, "code_quality").join(file)).unwrap();
        assert_eq!(bytes("runs"), bytes("again"), "{file}");
    }
}

/// What a stage made it of does not tell what data says: the answers may have been asked again.
#[test]
fn other_answers_get_other_vectors() {
    let turn = Arc::new(AtomicUsize::new(0));
    let turn_there = turn.clone();
    let server = Server::start(move |hit| match question(hit).starts_with("Write") {
        true => {
            let number: usize = question(hit)[6..].parse().unwrap();
            saying(hit, &text(number + turn_there.load(Ordering::Relaxed)))
        }
        false => scoring(hit),
    });
    let home = home(&server, BY_TEACHER);
    let asked: String = (0..COUNT)
        .map(|number| format!("Write {number}\n"))
        .collect();
    home.write("asked.txt", asked);
    let recipe = fs::read_to_string(home.path(RECIPE)).unwrap();
    let made = "[data.asked]\nsource = \"asked.txt\"\nchunk = \"lines\"\n[[stage]]\nkind = \"generate\"\n\
                teacher = \"judge\"\nprompts = \"asked\"\nas = \"made\"\n";
    let recipe = recipe
        .replacen("[[stage]]", &format!("{made}[[stage]]"), 1)
        .replace("data = \"corpus\"", "data = \"made\"");
    home.write(RECIPE, recipe);
    assert_success(&home.run());
    turn.store(1, Ordering::Relaxed);
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(home.path(&format!("cache/answers.sqlite{ending}")));
    }
    assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
    let directories = fs::read_dir(home.path("cache/embeddings")).unwrap();
    assert_eq!(directories.count(), 2);
}

#[test]
fn labels_may_come_from_a_column() {
    let server = Server::good();
    let home = home(&server, "labels = { column = \"grade\" }");
    assert_success(&home.run());
    assert_eq!(server.hits().len(), 0);
    // One record has no label, one no text.
    assert_eq!(lines(&home, "runs", "labels.jsonl").len(), COUNT - 1);
    assert_eq!(lines(&home, "runs", "data.jsonl").len(), 20);

    let set = |value: &str| home.distill(&["run", RECIPE, "--out", "other", "--set", value]);
    assert_success(&set("stage.good.labels.high=[4]"));
    // Numbers are numbers, however they are written.
    for high in ["[\"4\"]", "[4.0]"] {
        assert_success(&set(&format!("stage.good.labels.high={high}")));
    }
    assert_failure(
        &set("stage.good.labels.column=nothing"),
        1,
        &["no record has a label"],
    );
    assert_failure(
        &set("stage.good.labels.column=text"),
        1,
        &["row 1: the label is", "say which values are high"],
    );
    let corpus = fs::read_to_string(home.path("corpus.jsonl")).unwrap();
    let texts = corpus.replace("\"grade\":4", "\"grade\":\"4\"");
    home.write("corpus.jsonl", &texts);
    assert_success(&set("stage.good.labels.high=[4]"));
    home.write("corpus.jsonl", texts.replace("\"4\"", "\"nan\""));
    assert_failure(&home.run(), 1, &["row 1: the label is \"nan\""]);
}

#[test]
fn what_is_wrong_is_told() {
    let server = Server::start(scoring);
    let run = |stage: &str, code, parts: &[&str]| {
        assert_failure(&home(&server, stage).run(), code, parts);
    };
    run("", 2, &["labels come from a `teacher`, or from a column"]);
    run("teacher = \"judge\"", 2, &["needs `prompt`"]);
    let both = format!("{BY_TEACHER}\nlabels = {{ column = \"grade\" }}");
    run(&both, 2, &["name one of the two"]);
    run(
        &format!("{BY_TEACHER}\nhigh_from = 9"),
        2,
        &["`high_from` is above 1"],
    );
    run(
        &format!("{BY_TEACHER}\nhigh_from = 5"),
        1,
        &["0 of 40 labels are high", "hint:"],
    );
    run(
        "labels = { column = \"grade\" }\nfolds = 30",
        1,
        &["20 of 59 labels are high"],
    );
    run("labels = { column = \"grade\", hihg = [1] }", 2, &["hihg"]);
    run(
        "labels = { column = \"grade\" }\nthreshold = 2",
        2,
        &["`threshold` is above 0"],
    );

    // Answers that are no scores are counted, and what is left is too little.
    let silly = Server::start(|hit| {
        let mut answer = chat(hit);
        let said = "<think>On a scale of 1 to 5</think>{\"rationale\": \"defines 2";
        answer["choices"][0]["message"]["content"] = said.into();
        answer["choices"][0]["finish_reason"] = "length".into();
        Reply::json(answer)
    });
    let parts = [
        "none of the records has a usable answer",
        "no score that counts",
        "cut at `max_tokens`",
    ];
    assert_failure(
        &home(&silly, "teacher = \"judge\"\nprompt = \"value.jinja\"").run(),
        1,
        &parts,
    );
}

#[test]
fn a_killed_run_asks_and_embeds_nothing_twice() {
    let slow = |hit: &Hit| {
        std::thread::sleep(std::time::Duration::from_millis(30));
        scoring(hit)
    };
    let server = Server::start(slow);
    let home = home(&server, BY_TEACHER);
    let mut run = home.spawn("runs");
    assert!(run.wait_until(|| server.answered().len() >= 10));
    run.signal(libc::SIGKILL);
    run.finish();
    assert_success(&home.run());
    assert!(server.hits().len() <= 44, "{}", server.hits().len());
    let written = || {
        let files = fs::read_dir(home.path("cache/embeddings")).unwrap();
        let directory = files.map(|entry| entry.unwrap().path()).next().unwrap();
        fs::metadata(directory.join("000000.f32"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written();
    // Another threshold is another stage, with the same labels and vectors.
    let set = [
        "run",
        RECIPE,
        "--set",
        "stage.good.threshold=0.9",
        "--out",
        "strict",
    ];
    assert_success(&home.distill(&set));
    assert_eq!(before, written());
}

//! Data through filters: what is kept, what is dropped and why, and recipes that make no sense.

use std::fs;

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[data.corpus]
source = "corpus.jsonl"
columns = { text = "content" }
[data.bench]
source = "bench.jsonl"
[[stage]]
kind = "filter"
data = "corpus"
rules = [
  { kind = "length", min_words = 5 },
  { kind = "language", keep = ["en", "ko"], min_confidence = 0.1 },
  { kind = "repetition", max_duplicate_line_share = 0.3 },
  { kind = "regex", drop = ["(?i)lorem ipsum"] },
  { kind = "regex", require = ["^b$"], field = "origin" },
]
as = "filtered"
[[stage]]
kind = "dedup"
data = "filtered"
method = { kind = "minhash", ngram = 3 }
as = "unique"
[[stage]]
kind = "dedup"
data = "unique"
method = { kind = "exact" }
field = "content"
as = "still_unique"
[[stage]]
kind = "decontaminate"
data = "still_unique"
against = ["bench"]
as = "clean"
"#;

const TRAINING: &str = r#"
[[stage]]
kind = "sft"
model = "tiny"
data = "clean"
steps = 1
sequence_length = 32
tokens_per_step = 32
"#;

/// Each with the rule that drops it.
const CORPUS: [(&str, &str); 10] = [
    (
        "",
        "The old man mended his nets every morning before the boats came in.",
    ),
    ("length", "Too short."),
    (
        "language",
        "Der alte Mann flickte jeden Morgen seine Netze, bevor die Boote kamen.",
    ),
    ("", "노인은 매일 아침 배가 들어오기 전에 그물을 고쳤다."),
    (
        "repetition",
        "Read all of this page\nRead all of this page\nRead all of this page\nand then the next",
    ),
    (
        "regex 1",
        "What it says there is Lorem Ipsum, and nobody has ever read the rest.",
    ),
    (
        "near duplicate",
        "The old man mended his nets every morning, before the boats came in!",
    ),
    (
        "bench",
        "Q: Which of the planets of our solar system has the most moons that are known today? A: Saturn",
    ),
    ("no text", " "),
    (
        "",
        "A ferry left the harbour at noon with nobody on board but the captain.",
    ),
];

fn home(stages: &str) -> Home {
    let home = Home::new();
    let line = |(number, (_, text)): (usize, &(&str, &str))| {
        let text = Value::from(*text);
        format!("{{\"origin\":  \"b\", \"id\": {number}.50, \"content\": {text}}}\n")
    };
    home.write(
        "corpus.jsonl",
        CORPUS.iter().enumerate().map(line).collect::<String>(),
    );
    home.write(
        "bench.jsonl",
        "{\"question\": \"Which of the planets of our solar system has the most moons that are known today?\", \"answer\": \"Saturn\"}\n",
    );
    home.write(RECIPE, stages);
    home
}

#[test]
fn records_pass_unchanged_and_what_goes_is_told() {
    let home = home(&format!("{STAGES}{TRAINING}"));
    let output = home.run();
    assert_success(&output);
    let corpus = fs::read_to_string(home.path("corpus.jsonl")).unwrap();
    let kept: String = corpus
        .lines()
        .zip(CORPUS)
        .filter(|(_, (rule, _))| rule.is_empty())
        .map(|(line, _)| format!("{line}\n"))
        .collect();
    let clean = home.stage("runs", "decontaminate");
    assert_eq!(fs::read_to_string(clean.join("data.jsonl")).unwrap(), kept);

    let mut dropped = Vec::new();
    let mut stages = vec![home.stage("runs", "filter"), clean.clone()];
    stages.extend(home.stages("runs", "dedup"));
    for stage in &stages {
        let text = fs::read_to_string(stage.join("dropped.jsonl")).unwrap();
        let counts = read_json(&stage.join("counts.json"));
        let records = |count: &Value| count["records"].as_u64().unwrap();
        let all: u64 = counts["dropped"]
            .as_array()
            .unwrap()
            .iter()
            .map(records)
            .sum();
        assert_eq!(all, text.lines().count() as u64);
        assert_eq!(records(&counts), all + counts["kept"].as_u64().unwrap());
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            dropped.push(line["rule"].as_str().unwrap().to_string());
            assert!(!line["detail"].as_str().unwrap().is_empty());
        }
    }
    dropped.sort();
    let mut expected: Vec<&str> = CORPUS
        .iter()
        .map(|(rule, _)| *rule)
        .filter(|rule| !rule.is_empty())
        .collect();
    expected.sort_unstable();
    assert_eq!(dropped, expected);
    let told = fs::read_to_string(clean.join("dropped.jsonl")).unwrap();
    assert!(
        told.contains("which of the planets of our solar system has the most moons"),
        "{told}"
    );

    let shown = stdout(&output);
    for part in [
        "filter of corpus",
        "regex 1",
        "decontaminate of still_unique",
        "kept",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    // The model reads the column that the recipe named, three stages on.
    assert_eq!(home.stages("runs", "sft").len(), 1);

    let again = home.run();
    assert_success(&again);
    assert_eq!(stderr(&again).matches("done before").count(), 5);
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let files = |threads: &str| {
        let mut home = home(STAGES);
        home.set("RAYON_NUM_THREADS", threads);
        assert_success(&home.run());
        let stages = ["filter", "dedup", "decontaminate"].map(|kind| home.stages("runs", kind));
        let names = ["data.jsonl", "dropped.jsonl", "counts.json"];
        let paths = stages
            .iter()
            .flatten()
            .flat_map(|stage| names.map(|name| stage.join(name)));
        paths
            .map(|path| fs::read(path).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(files("1"), files("2"));
}

#[test]
fn rules_that_leave_nothing_leave_no_file() {
    let home = home(&STAGES.replace("min_words = 5", "min_words = 500"));
    let output = home.run();
    assert_failure(
        &output,
        1,
        &[
            "stage 1 (filter): data `corpus`: everything was dropped, all of 10 records: no text 1, length 9",
            "hint: ",
        ],
    );
    assert!(home.stages("runs", "filter").is_empty());
}

#[test]
fn recipes_that_make_no_sense_are_told() {
    for (from, to, parts) in [
        (
            "kind = \"length\", min_words",
            "kind = \"lenght\", min_words",
            &["`lenght`", "length, language, repetition, regex"][..],
        ),
        (
            "min_words = 5",
            "min_wrods = 5",
            &["unknown key `min_wrods`", "min_words"],
        ),
        (
            "(?i)lorem ipsum",
            "lorem (ipsum",
            &["r.toml:", "    lorem (ipsum\n          ^\n"],
        ),
        (
            "against = [\"bench\"]",
            "against = [\"tiny\"]",
            &["`tiny` is a model, data is wanted here"],
        ),
        (
            "against = [\"bench\"]",
            "against = [\"still_unique\"]",
            &["`still_unique` is the data itself"],
        ),
        (
            "keep = [\"en\", \"ko\"]",
            "keep = [\"english\"]",
            &["no language `english`; accepted: af"],
        ),
        (
            "ngram = 3",
            "bands = 13",
            &["`bands` must divide `permutations`"],
        ),
        (
            "kind = \"exact\"",
            "kind = \"exakt\"",
            &["`exakt`", "exact, minhash"],
        ),
    ] {
        assert!(STAGES.contains(from), "{from}");
        let home = home(&STAGES.replacen(from, to, 1));
        assert_failure(&home.run(), 2, parts);
    }
}

#[test]
fn data_that_cannot_be_filtered_is_told() {
    for (contents, parts) in [
        (
            "{\"content\": \"a\"}\n{\"content\": \n",
            &["corpus.jsonl: not readable as JSON objects: line 2"][..],
        ),
        (
            "{\"content\": 5}\n",
            &["corpus.jsonl, row 1: column `content`: found 5"],
        ),
        ("\n", &["no samples: the data holds no records"]),
        (
            "{\"content\": \"The old man mended his nets every morning before the boats came in.\"}\n",
            &["there is no column `origin`"],
        ),
    ] {
        let home = home(STAGES);
        home.write("corpus.jsonl", contents);
        assert_failure(&home.run(), 1, parts);
    }
}

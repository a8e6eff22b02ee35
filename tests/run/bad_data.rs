//! Data that holds nothing to learn from.

use crate::home::{Home, RECIPE, assert_failure, assert_success, stderr};

fn recipe(data: &str) -> String {
    format!(
        r#"
[models.tiny]
source = "tiny"
[data.train]
source = "{data}"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "sft"
model = "start"
data = "train"
steps = 2
sequence_length = 32
tokens_per_step = 64
"#
    )
}

#[test]
fn each_is_told_and_the_stage_before_stays_done() {
    let home = Home::new();
    let prompt = "a".repeat(50);
    let masked = format!("{{\"prompt\": \"{prompt}\", \"completion\": \"b\"}}\n").repeat(4);
    for (file, contents, parts) in [
        ("empty.txt", "", &["empty.txt: no samples"][..]),
        ("blank.txt", " \n\n ", &["blank.txt: no samples"]),
        ("empty.jsonl", "", &["empty.jsonl: no samples"]),
        (
            "columns.jsonl",
            "{\"frage\": \"a\", \"antwort\": \"b\"}\n",
            &[
                "columns.jsonl: no known layout",
                "\"frage\", \"antwort\"",
                "hint: name the columns",
            ],
        ),
        (
            "torn.jsonl",
            "{\"text\": \"a\"}\n{\"text\": ",
            &["torn.jsonl: not readable as JSON objects: line 2"],
        ),
        (
            "masked.jsonl",
            &masked,
            &["nothing to learn from", "hint: "],
        ),
        (
            "torn.parquet",
            "PAR1 and no more",
            &["torn.parquet: not readable as parquet"],
        ),
    ] {
        home.write(file, contents);
        home.write(RECIPE, recipe(file));
        let output = home.run();
        assert_failure(&output, 1, &[&["error: stage 2 (sft): "], parts].concat());
    }
    home.write(RECIPE, recipe("train.txt"));
    let output = home.run();
    assert_success(&output);
    assert!(stderr(&output).contains("prune → start: done before"));
}

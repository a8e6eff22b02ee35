//! A teacher with another tokenizer than its student's.

use std::path::Path;

use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr};
use crate::models;

const TEXT: &str = "the mill stood by the river, and the miller kept the books.\n\
    a number that nobody checks, she said, is only a story about a number: 1234.\n";

/// A second model directory, whose tokens are pairs of letters and letters, ids in another order.
fn write_pairs(directory: &Path) {
    models::write_tiny(directory);
    let letters = ('a'..='z')
        .rev()
        .chain('0'..='9')
        .chain(" \n.,;:'\"!?-()&_".chars());
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let pairs = ["th", "he", "er", "e ", " a", "r,"].map(String::from);
    let tokens: Vec<String> = (special.into_iter())
        .chain(pairs)
        .chain(letters.map(String::from))
        .collect();
    models::write_tokenizer(directory, &tokens);
    let path = directory.join("tokenizer.json");
    let json = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, json.replace("(?s).", "th|he|er|e | a|r,|(?s:.)")).unwrap();
}

fn recipe(teacher: &str, loss: &str, rest: &str) -> String {
    format!(
        r#"
[models.tiny]
source = "tiny"
[models.pairs]
source = "pairs"
[data.train]
source = "train.jsonl"
[[stage]]
kind = "distill"
student = "tiny"
teacher = "{teacher}"
data = "train"
loss = [{loss}]
optimizer = {{ kind = "adamw", lr = 3e-3 }}
steps = 6
sequence_length = 64
tokens_per_step = 256
{rest}
"#
    )
}

fn home() -> Home {
    let home = Home::new();
    write_pairs(&home.path("pairs"));
    let rows: String = (0..12)
        .map(|number| {
            let (prompt, completion) = TEXT.split_at(10 + number);
            let row = serde_json::json!({ "prompt": prompt, "completion": completion });
            row.to_string() + "\n"
        })
        .collect();
    home.write("train.jsonl", rows);
    home
}

/// Loss and gradient norm of each step.
fn steps(home: &Home, out: &str) -> Vec<(f64, f64)> {
    let lines = metrics(&home.stage(out, "distill"));
    let of_line =
        |line: &serde_json::Value| Some((line["loss"].as_f64()?, line["gradient_norm"].as_f64()?));
    lines.iter().filter_map(of_line).collect()
}

const LOSS: &str = r#"{ kind = "universal_logit", temperature = 1.5 }"#;

#[test]
fn a_model_is_no_distance_from_itself() {
    let home = home();
    home.write(RECIPE, recipe("tiny", LOSS, ""));
    let output = home.run();
    assert_success(&output);
    let said = stderr(&output);
    assert!(said.contains("(100.0 %)"), "{said}");
    assert!(steps(&home, "runs").iter().all(|step| *step == (0.0, 0.0)));
}

#[test]
fn a_teacher_of_other_tokens_is_followed() {
    let home = home();
    home.write(
        RECIPE,
        recipe("pairs", LOSS, "epochs = 20").replace("steps = 6\n", ""),
    );
    let output = home.run();
    assert_success(&output);
    let said = stderr(&output);
    assert!(said.contains("aligned: "), "{said}");
    let counts = read_json(&home.stage("runs", "distill").join("counts.json"));
    let share = counts["aligned"].as_f64().unwrap() / counts["targets"].as_f64().unwrap();
    println!("aligned: {share}");
    assert!((0.6..0.95).contains(&share), "{share}");
    let learned = steps(&home, "runs");
    let (first, last) = (learned[0].0, learned[learned.len() - 1].0);
    println!("loss from {first} to {last}");
    assert!(last < 0.8 * first, "{learned:?}");
}

#[test]
fn any_cut_into_microbatches_gives_the_same_gradients() {
    let home = home();
    let both = format!(r#"{LOSS}, {{ kind = "cross_entropy", weight = 0.5 }}"#);
    let mut all = Vec::new();
    for (rows, packing) in [(4, "pack"), (2, "pack"), (1, "pack"), (1, "none")] {
        let rest = format!("micro_batch = {rows}\npacking = \"{packing}\"");
        home.write(RECIPE, recipe("pairs", &both, &rest));
        let out = format!("{packing}-{rows}");
        assert_success(&home.distill(&["run", RECIPE, "--out", &out]));
        all.push(steps(&home, &out));
    }
    for other in &all[1..3] {
        let (a, b) = (all[0][0], other[0]);
        assert!((a.0 / b.0 - 1.0).abs() < 1e-6, "{a:?} {b:?}");
        assert!((a.1 / b.1 - 1.0).abs() < 1e-5, "{a:?} {b:?}");
    }
    // A kill changes nothing, because nothing is drawn; the same run again does.
    home.write(RECIPE, recipe("pairs", &both, "micro_batch = 2"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "again"]));
    assert_eq!(steps(&home, "again"), all[1]);
}

#[test]
fn what_needs_one_vocabulary_is_refused() {
    let home = home();
    home.write(RECIPE, recipe("pairs", r#"{ kind = "forward_kl" }"#, ""));
    let parts = [
        "for the student and",
        "hint: losses over tokens",
        "`universal_logit`",
    ];
    assert_failure(&home.run(), 1, &parts);
    let both = format!(r#"{LOSS}, {{ kind = "tvd" }}"#);
    home.write(RECIPE, recipe("pairs", &both, ""));
    let parts = ["`tvd` compares token by token", "only `cross_entropy`"];
    assert_failure(&home.run(), 2, &parts);
    let twice = format!(r#"{LOSS}, {{ kind = "universal_logit" }}"#);
    home.write(RECIPE, recipe("pairs", &twice, ""));
    assert_failure(&home.run(), 2, &["`universal_logit` is listed twice"]);
}

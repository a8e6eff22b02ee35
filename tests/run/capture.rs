//! Soft targets on disk: captured, killed and resumed, learned from, refused, shown.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, stdout};
use crate::models;

const MODELS: &str = r#"
seed = 7
[models.teacher]
source = "tiny"
[data.train]
source = "train.txt"
[data.other]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = [0]
as = "start"
"#;

/// A list of the whole vocabulary: what is learned is what the teacher itself would say.
const CAPTURE: &str = r#"
[[stage]]
kind = "capture"
teacher = "teacher"
data = "train"
encoding = { kind = "top_k", k = 80, bits = 16 }
temperature = 2.0
sequence_length = 32
shard_tokens = 64
as = "targets"
"#;

fn distil(teacher: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "distill"
student = "start"
teacher = {teacher}
data = "train"
loss = [{{ kind = "forward_kl", weight = 0.9, temperature = 2.0 }}, {{ kind = "cross_entropy", weight = 0.1 }}]
optimizer = {{ kind = "adamw", lr = 3e-3 }}
epochs = 2
sequence_length = 32
tokens_per_step = 256
micro_batch = 4
"#
    )
}

/// A home whose recipe has captured.
fn captured(rest: &str) -> Home {
    let home = Home::new();
    home.write(RECIPE, format!("{MODELS}{CAPTURE}{rest}"));
    assert_success(&home.run());
    home
}

fn targets(home: &Home, out: &str) -> PathBuf {
    home.stage(out, "capture").join("targets")
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let name = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries
        .map(|entry| (name(&entry), fs::read(entry.path()).unwrap()))
        .collect()
}

fn losses(stage: &Path) -> Vec<f64> {
    let of_steps = metrics(stage);
    of_steps
        .iter()
        .filter_map(|line| line["loss"].as_f64())
        .collect()
}

#[test]
fn a_student_of_shards_learns_what_a_student_of_the_teacher_does() {
    let home = captured("");
    home.write(
        RECIPE,
        format!(
            "{MODELS}{CAPTURE}{}{}",
            distil(r#"{ shards = "targets" }"#),
            distil(r#""teacher""#)
        ),
    );
    assert_success(&home.run());
    let runs: Vec<Vec<f64>> = (home.stages("runs", "distill").iter())
        .map(|stage| losses(stage))
        .collect();
    assert_eq!(runs.len(), 2);
    assert!(runs[0].len() > 10 && runs[0].len() == runs[1].len());
    let worst = (runs[0].iter().zip(&runs[1]))
        .map(|(a, b)| ((a - b) / b).abs())
        .fold(0.0, f64::max);
    println!(
        "{} steps, losses differ by {worst:e} at most",
        runs[0].len()
    );
    // Sixteen bits, and what two epochs make of their rounding.
    assert!(worst < 1e-3, "{runs:?}");
    let (first, last) = (runs[0][0], runs[0][runs[0].len() - 1]);
    assert!(last < first, "{first} {last}");
}

#[test]
fn draws_and_short_lists_teach_too() {
    for encoding in [
        "{ kind = \"sampled\", samples = 20 }",
        "{ kind = \"top_k\", k = 5 }",
    ] {
        let capture = CAPTURE.replace("{ kind = \"top_k\", k = 80, bits = 16 }", encoding);
        let home = Home::new();
        let shards = distil(r#"{ shards = "targets" }"#);
        home.write(RECIPE, format!("{MODELS}{capture}{shards}"));
        assert_success(&home.run());
        let losses = losses(&home.stage("runs", "distill"));
        assert!(
            losses[losses.len() - 1] < losses[0],
            "{encoding} {losses:?}"
        );
        assert!(losses.iter().all(|loss| *loss > 0.0));
    }
}

#[test]
fn a_kill_costs_only_the_shard_under_way() {
    for encoding in [
        "{ kind = \"sampled\", samples = 20 }",
        "{ kind = \"top_k\", k = 5 }",
    ] {
        let home = Home::new();
        home.write("train.txt", models::TEXT.repeat(80));
        let capture = CAPTURE.replace("{ kind = \"top_k\", k = 80, bits = 16 }", encoding);
        home.write(RECIPE, format!("{MODELS}{capture}"));
        assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
        let expected = contents(&targets(&home, "undisturbed"));
        assert!(expected.len() > 200, "{}", expected.len());
        let shards = |home: &Home| {
            let stage = home.stages("killed", "capture").pop();
            let entries = stage.and_then(|stage| fs::read_dir(stage.join("targets")).ok());
            entries.map_or(0, |entries| {
                let names = entries.map(|entry| entry.unwrap().file_name());
                names
                    .filter(|name| name.to_string_lossy().starts_with("shard-"))
                    .count()
            })
        };
        let mut kept: Option<(PathBuf, std::time::SystemTime)> = None;
        let mut kills = 0;
        for threshold in [1, 40, 120] {
            let mut run = home.spawn("killed");
            if run.wait_until(|| shards(&home) >= threshold) {
                run.signal(libc::SIGKILL);
            }
            let (status, text) = run.finish();
            match status.signal() {
                Some(_) => kills += 1,
                None => assert!(status.success(), "{text}"),
            }
            let first = targets(&home, "killed").join("shard-00000.safetensors");
            let written = fs::metadata(&first).unwrap().modified().unwrap();
            let (_, before) = kept.get_or_insert((first, written));
            assert_eq!(*before, written, "a whole shard is not computed again");
        }
        println!("{kills} kills");
        assert!(kills >= 2);
        assert_success(&home.distill(&["run", RECIPE, "--out", "killed"]));
        let found = contents(&targets(&home, "killed"));
        assert!(found == expected, "other bits, or other files");
    }
}

#[test]
fn broken_shards_are_named() {
    let home = captured(&distil(r#"{ shards = "targets" }"#));
    let directory = targets(&home, "runs");
    let learn = |home: &Home| {
        for stage in home.stages("runs", "distill") {
            fs::remove_dir_all(stage).unwrap();
        }
        home.run()
    };
    let path = directory.join("shard-00003.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let at = flipped.len() - 20;
    flipped[at] ^= 4;
    for (bytes, says) in [
        (Some(&flipped[..]), "the shard is corrupt: its checksum is"),
        (Some(&whole[..whole.len() - 9]), "the shard is cut off"),
        (Some(&whole[..5]), "the shard is cut off"),
        (Some(&[]), "it is empty"),
        (None, "the shard is missing"),
    ] {
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_failure(&learn(&home), 1, &["shard-00003.safetensors", says]);
        let directory = directory.to_str().unwrap();
        let shown = home.distill(&["shards", directory]);
        assert_failure(&shown, 1, &["shard-00003.safetensors", says]);
    }
    fs::write(&path, &whole).unwrap();
    let shards = contents(&directory)
        .into_keys()
        .filter(|name| name.starts_with("shard-"));
    let mut shards: Vec<(String, Vec<u8>)> = shards
        .map(|name| (name.clone(), fs::read(directory.join(name)).unwrap()))
        .collect();
    let (last, bytes) = shards.pop().unwrap();
    fs::remove_file(directory.join(&last)).unwrap();
    let says = format!(
        "the shard is missing, 1 of {} shards in all",
        shards.len() + 1
    );
    assert_failure(&learn(&home), 1, &[&last, &says]);
    assert!(
        home.stages("runs", "distill").is_empty(),
        "nothing is left of a stage that did nothing"
    );
    fs::write(directory.join(&last), &bytes).unwrap();
    assert_success(&learn(&home));
}

#[test]
fn targets_of_something_else_are_refused() {
    let home = captured("");
    let directory = targets(&home, "runs");
    // By a path, from a recipe that knows no stage `capture`.
    let shards = distil(&format!("{{ shards = {:?} }}", directory.to_str().unwrap()));
    let learn = |stage: &str| {
        home.write(RECIPE, format!("{MODELS}{stage}"));
        home.run()
    };
    for (from, to, parts) in [
        (
            "forward_kl\", weight = 0.9, temperature = 2.0",
            "forward_kl\", weight = 0.9",
            [
                "`temperature` of these soft targets is 2",
                "but 1 is wanted",
            ],
        ),
        (
            "sequence_length = 32",
            "sequence_length = 64",
            ["`sequence_length` of these soft targets is 32", "64"],
        ),
        (
            "data = \"train\"",
            "data = \"other\"",
            ["`data` of", "wanted"],
        ),
        (
            "epochs = 2",
            "epochs = 2\nchat_template = \"{{ messages }}\"",
            ["`template` of these soft targets is none", "wanted"],
        ),
    ] {
        assert!(shards.contains(from));
        assert_failure(&learn(&shards.replace(from, to)), 1, &parts);
    }
    let mut tokens = models::characters();
    tokens.swap(10, 11);
    models::write_tokenizer(&home.path("tiny"), &tokens);
    assert_failure(&learn(&shards), 1, &["`tokenizer` of these soft targets"]);
    models::write_tokenizer(&home.path("tiny"), &models::characters());
    assert_success(&learn(&shards));

    for (from, to, parts) in [
        (
            "kind = \"forward_kl\", weight",
            "kind = \"reverse_kl\", weight",
            [
                "`reverse_kl` is not defined on stored targets",
                "hint: `forward_kl`",
            ],
        ),
        (
            "epochs = 2",
            "epochs = 2\npacking = \"stream\"",
            ["`stream` cuts samples elsewhere", "hint: `pack`"],
        ),
        ("shards = ", "shard = ", ["unknown", "shards"]),
        (
            directory.to_str().unwrap(),
            "nowhere",
            ["no stage `capture` is called `nowhere`", RECIPE],
        ),
    ] {
        assert_failure(&learn(&shards.replace(from, to)), 2, &parts);
    }
}

#[test]
fn the_verb_shows_what_is_there() {
    let home = captured("");
    let directory = targets(&home, "runs");
    let directory = directory.to_str().unwrap();
    let output = home.distill(&["shards", directory, "--samples", "2", "--json"]);
    assert_success(&output);
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(shown["encoding"]["top_k"]["k"], 80);
    assert_eq!(shown["temperature"], 2.0);
    assert_eq!(shown["tokens"]["sequence_length"], 32);
    // Every character but the first is predicted, and the end.
    assert_eq!(shown["targets"], models::TEXT.len() * 8);
    let samples = shown["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    let sum: f64 = (samples[0]["tokens"].as_array().unwrap().iter())
        .map(|token| token["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert!(shown["entropy"]["mean"].as_f64().unwrap() < 80f64.ln());
    let output = home.distill(&["shards", directory]);
    assert_success(&output);
    let table = stdout(&output);
    for part in ["top 80 with tail", "position 2: entropy", "and 72 more"] {
        assert!(table.contains(part), "{table}");
    }
    let nothing = home.distill(&["shards", home.path("tiny").to_str().unwrap()]);
    assert_failure(&nothing, 1, &["there are no soft targets here"]);
}

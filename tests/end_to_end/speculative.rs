//! Drafts of a pruned SmolLM2 for the whole one: without chance they change nothing but the time.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::verbs::SMOLLM2;
use crate::{distill, distill_told, stderr, stdout};

/// SmolLM2 without four of its layers, which is left untrained.
fn pruned(home: &Path) -> PathBuf {
    let layers: Vec<u32> = (0..30)
        .filter(|layer| ![9, 13, 17, 21].contains(layer))
        .collect();
    let recipe = format!(
        "[models.smol]\nsource = {SMOLLM2}\n[[stage]]\nkind = \"prune\"\nmodel = \"smol\"\nkeep_layers = {layers:?}\n"
    );
    fs::write(home.join("r.toml"), recipe).unwrap();
    let output = distill(home, &["run", "r.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let stage = fs::read_dir(home.join("runs/r")).unwrap();
    let stage = stage
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("model").is_dir());
    stage.unwrap().join("model")
}

fn generated(home: &Path, arguments: &[&str]) -> Vec<Value> {
    let verb = ["generate", "--model", SMOLLM2, "--json", "--stats"];
    let output = distill(home, &[&verb[..], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = stdout(&output);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_draft_changes_no_token_and_is_told_of() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let draft = pruned(home).display().to_string();
    let with_draft = ["--draft", &draft];
    for prompt in ["What is the capital of France?", "Why is the sky blue?"] {
        let arguments = ["--max-tokens", "24", "--prompt", prompt];
        let plain = generated(home, &arguments);
        for tokens in ["1", "4"] {
            let more = ["--draft-tokens", tokens];
            let drafted = generated(home, &[&arguments[..], &with_draft, &more].concat());
            assert_eq!(drafted[0], plain[0], "{prompt}");
            let drafts = &drafted[1]["stats"]["drafts"];
            assert!(drafts["accepted"].as_u64().unwrap() > 0, "{drafts}");
            let (length, rate) = (
                drafts["acceptance_length"].as_f64().unwrap(),
                drafts["acceptance_rate"].as_f64().unwrap(),
            );
            assert!(rate > 0.0 && rate <= 1.0 && length <= 4.0, "{drafts}");
        }
        assert!(plain[1]["stats"].get("drafts").is_none());
    }
    // Stop strings and draws: the same seed gives the same text, and a stop string cuts it.
    let sampled = [
        "--raw",
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        "24",
        "--temperature",
        "0.8",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--top-k",
        "50",
        "--repetition-penalty",
        "1.1",
        "--draft",
        &draft,
    ];
    let first = generated(home, &sampled);
    assert_eq!(generated(home, &sampled)[0], first[0]);
    let text = first[0]["text"].as_str().unwrap();
    let stop = text.split_whitespace().nth(2).unwrap();
    let cut = generated(home, &[&sampled[..], &["--stop", stop]].concat());
    assert_eq!(cut[0]["text"].as_str(), text.split(stop).next());
    assert_eq!(cut[0]["finish_reason"], "stop");

    let talk = |more: &[&str]| {
        let verb = ["chat", "--model", SMOLLM2, "--max-tokens", "16", "--stats"];
        let output = distill_told(
            home,
            &[&verb[..], more].concat(),
            "Who are you?\nAnd why?\n",
        );
        assert!(output.status.success(), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let (drafted, words) = talk(&with_draft);
    assert_eq!(drafted, talk(&[]).0);
    assert_eq!(
        words.matches("drafted tokens accepted a round").count(),
        2,
        "{words}"
    );
}

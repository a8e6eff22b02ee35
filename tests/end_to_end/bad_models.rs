//! What is wrong with a model or an input is told once, and ends with exit code 1.

use std::fs;
use std::path::Path;

use crate::verbs::SMOLLM2;
use crate::{distill, stderr, stdout};

/// One error that says `wanted`, exit code 1, nothing on stdout.
fn refused(directory: &Path, arguments: &[&str], wanted: &str) {
    let output = distill(directory, arguments);
    let shown = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{shown}");
    assert!(shown.contains(wanted), "{wanted}\n{arguments:?}\n{shown}");
    assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
    assert!(!shown.contains("bug of its own"), "{shown}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
}

fn score<'a>(model: &'a str, text: &'a str) -> [&'a str; 5] {
    ["score", "--model", model, "--text", text]
}

/// A golden checkpoint with one file changed.
fn copied(home: &Path, change: &str, with: impl Fn(Vec<u8>) -> Vec<u8>) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/llama_tied");
    fs::create_dir(home.join("model")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let bytes = fs::read(golden.join(file)).unwrap();
        let bytes = if file == change { with(bytes) } else { bytes };
        fs::write(home.join("model").join(file), bytes).unwrap();
    }
}

#[test]
fn paths_that_hold_no_model() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    refused(
        at,
        &score("none.gguf", "a"),
        "`none.gguf` does not exist\nhint: ",
    );
    fs::create_dir(at.join("empty")).unwrap();
    refused(
        at,
        &score("empty", "a"),
        "empty: this directory holds no model",
    );
    fs::write(at.join("notes.txt"), "words").unwrap();
    refused(
        at,
        &score("notes.txt", "a"),
        "a model file of this kind is not supported",
    );
    fs::write(at.join("x.gguf"), "GGUF").unwrap();
    refused(at, &score("x.gguf", "a"), "truncated or corrupt");
}

#[test]
fn a_truncated_gguf() {
    let home = tempfile::tempdir().unwrap();
    let found = distill(home.path(), &score(SMOLLM2, "a"));
    assert!(found.status.success(), "{}", stderr(&found));
    // The file in the user's cache, by its digest.
    let cache = ["DISTILL_CACHE", "XDG_CACHE_HOME", "HOME"].map(std::env::var_os);
    let root = match cache {
        [Some(root), ..] => root.into(),
        [_, Some(base), _] => Path::new(&base).join("distill"),
        [.., home] => Path::new(&home.unwrap()).join(".cache/distill"),
    };
    let digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let whole = root
        .join("files")
        .join(digest)
        .join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let bytes = fs::read(whole).unwrap();
    for length in [24, 1_000_000, 50_000_000, bytes.len() - 1] {
        fs::write(home.path().join("cut.gguf"), &bytes[..length]).unwrap();
        refused(home.path(), &score("cut.gguf", "a"), "cut.gguf");
    }
}

#[test]
fn directories_that_do_not_fit_themselves() {
    let home = tempfile::tempdir().unwrap();
    copied(home.path(), "config.json", |json| {
        let text = String::from_utf8(json).unwrap();
        text.replace("LlamaForCausalLM", "MambaForCausalLM")
            .replace("\"llama\"", "\"mamba\"")
            .into_bytes()
    });
    refused(home.path(), &score("model", "a"), "mamba");

    let home = tempfile::tempdir().unwrap();
    copied(home.path(), "model.safetensors", |bytes| {
        bytes[..bytes.len() / 2].to_vec()
    });
    refused(home.path(), &score("model", "a"), "model.safetensors");

    let home = tempfile::tempdir().unwrap();
    copied(home.path(), "config.json", |_| b"{ not json".to_vec());
    refused(home.path(), &score("model", "a"), "config.json");
}

#[test]
fn tokenizers_that_are_missing_or_another_models() {
    let home = tempfile::tempdir().unwrap();
    copied(home.path(), "", |bytes| bytes);
    for arguments in [
        &score("model", "a")[..],
        &["generate", "--model", "model", "--prompt", "a"],
    ] {
        refused(home.path(), arguments, "the model has no tokenizer");
    }
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0..5000).map(|id| (format!("t{id}"), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" }
    });
    fs::write(home.path().join("model/tokenizer.json"), json.to_string()).unwrap();
    refused(
        home.path(),
        &score("model", "a"),
        "the tokenizer has 5000 tokens, but the model has ",
    );
}

#[test]
fn inputs_that_cannot_be_scored() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    copied(at, "", |bytes| bytes);
    let ids = |text: &str, wanted: &str| {
        fs::write(at.join("ids.json"), text).unwrap();
        refused(
            at,
            &["score", "--model", "model", "--ids", "ids.json"],
            wanted,
        );
    };
    ids(
        "[1, 999999]",
        "ids.json: element 1 is 999999, but the model has ",
    );
    ids("{}", "ids.json: expected one JSON array of token ids");
    ids("[]", "there is nothing to score");
    ids(
        &format!("{:?}", vec![1; 100_000]),
        "more than the model's context",
    );
    refused(
        at,
        &["score", "--model", "model", "--file", "none.txt"],
        "cannot read none.txt",
    );
    refused(
        at,
        &[
            "eval",
            "perplexity",
            "--model",
            "model",
            "--data",
            "none.txt",
        ],
        "none.txt",
    );
    refused(
        at,
        &[&score("model", "a")[..], &["--device", "cuda:77"]].concat(),
        "--device cuda:77: ",
    );
}

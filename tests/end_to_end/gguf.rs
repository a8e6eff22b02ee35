//! GGUF files: what is exported is what was there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::verbs::SMOLLM2;
use crate::{assert_near, distill, stderr, stdout};

fn golden(name: &str) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints");
    golden.join(name).display().to_string()
}

/// `distill export --to gguf`; what it says on stderr.
fn export(at: &Path, model: &str, kind: &str, out: &str, more: &[&str]) -> String {
    let arguments = [
        "export", "--model", model, "--to", "gguf", "--type", kind, "--path", out,
    ];
    let output = distill(at, &[&arguments, more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{out}\n"));
    stderr(&output)
}

fn refused(at: &Path, arguments: &[&str], code: i32, wanted: &str) {
    let before = list(at);
    let output = distill(at, arguments);
    let shown = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    assert!(shown.contains(wanted), "{wanted}\n{shown}");
    assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
    assert_eq!(stdout(&output), "", "{shown}");
    assert_eq!(list(at), before, "something was left behind");
}

fn list(at: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(at)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.sort();
    found
}

/// The logits of each position in the order of the ids.
fn by_id(mut score: Value) -> Value {
    for position in score["top"].as_array_mut().unwrap() {
        let position = position.as_array_mut().unwrap();
        position.sort_by_key(|pair| pair[0].as_u64());
    }
    score
}

fn score(at: &Path, model: &str, more: &[&str]) -> Value {
    let arguments = ["score", "--model", model, "--json", "--top", "80"];
    let output = distill(at, &[&arguments, more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn every_architecture_comes_back_with_the_same_logits() {
    let home = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 80).collect();
    fs::write(
        home.path().join("ids.json"),
        serde_json::json!(ids).to_string(),
    )
    .unwrap();
    let ids = ["--ids", "ids.json"];
    for name in [
        "llama_tied",
        "llama_untied",
        "llama_gqa",
        "llama3_rope",
        "llama_bias",
        "llama_linear_rope",
        "mistral",
        "qwen2",
        "qwen3",
    ] {
        let out = format!("{name}.gguf");
        let said = export(home.path(), &golden(name), "f32", &out, &["--verify"]);
        assert!(said.contains("no tokenizer to export"), "{said}");
        let same = "512 tokens: mean KL 0 nats, largest logit difference 0, NLL";
        assert!(said.contains(same), "{name}: {said}");
        assert_eq!(
            said.contains("no sliding window"),
            name == "mistral",
            "{said}"
        );
        let found = score(home.path(), &out, &ids);
        assert_eq!(found["top"][23].as_array().unwrap().len(), 80);
        // Halves are multiplied as they are stored, the file's values as f32: the order of sums differs.
        let expected = score(home.path(), &golden(name), &ids);
        assert_near(&by_id(found), &by_id(expected), 2e-5);
    }
    // And from GGUF to GGUF.
    export(home.path(), "qwen2.gguf", "F32", "again.gguf", &[]);
    let found = score(home.path(), "again.gguf", &ids);
    assert_eq!(found, score(home.path(), "qwen2.gguf", &ids));
}

#[test]
fn a_real_model_keeps_its_tokenizer_and_stays_close() {
    let home = tempfile::tempdir().unwrap();
    let texts =
        "  1 indented\n    42 more\r\n\tdon't — naïve 日本語 안녕 🙂 <|im_start|>user\n3.14159";
    fs::write(home.path().join("odd.txt"), texts).unwrap();
    let said = export(
        home.path(),
        SMOLLM2,
        "q4_K",
        "smol.gguf",
        &["--verify", "odd.txt"],
    );
    for line in [
        "wrote 272 tensors",
        "Q4_K     30",
        "Q5_0    180",
        "F32      61",
        "180 × Q5_0 instead of Q4_K: rows of 576 values are not whole blocks of 256",
        "1 × Q8_0 instead of Q6_K",
        "mean KL 0.",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    // The way back.
    let back = [
        "export",
        "--model",
        "smol.gguf",
        "--to",
        "safetensors",
        "--out",
        "back",
        "--verify",
    ];
    let output = distill(home.path(), &back);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("mean KL 0 nats"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_cannot_be_written_is_told_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let qwen = golden("qwen3");
    let gguf = [
        "export", "--model", &qwen, "--to", "gguf", "--out", "x.gguf",
    ];
    let with = |more: &[&'static str]| [&gguf, more].concat();
    refused(at, &with(&[]), 2, "--type <TYPE>");
    refused(
        at,
        &with(&["--type", "q3_k"]),
        2,
        "accepted: f32, f16, q4_0",
    );
    refused(
        at,
        &with(&["--type", "q8_0", "--dtype", "f16"]),
        2,
        "cannot be used with",
    );
    refused(
        at,
        &with(&["--type", "q8_0", "--max-kl", "1"]),
        2,
        "--verify",
    );
    refused(
        at,
        &with(&["--type", "q8_0", "--verify", "--max-kl=-1"]),
        2,
        "--max-kl",
    );
    refused(
        at,
        &with(&["--type", "q8_0", "--verify", "none.txt"]),
        1,
        "cannot read none.txt",
    );
    let strict = ["--type", "q4_0", "--verify", "--max-kl", "1e-6"];
    refused(
        at,
        &with(&strict),
        1,
        "x.gguf: what was written differs from its source by a mean KL of",
    );
    let safetensors = [
        "export",
        "--model",
        &qwen,
        "--to",
        "safetensors",
        "--out",
        "x",
        "--type",
        "q8_0",
    ];
    refused(at, &safetensors, 2, "--type belongs to gguf");

    let window = golden("qwen2_window");
    let arguments = [
        "export", "--model", &window, "--to", "gguf", "--type", "f16", "--out", "x.gguf",
    ];
    refused(
        at,
        &arguments,
        1,
        "which layers of this architecture have a sliding window",
    );

    fs::write(at.join("x.gguf"), "mine").unwrap();
    refused(
        at,
        &with(&["--type", "q8_0"]),
        1,
        "x.gguf: exists already; remove it or choose another place",
    );
    assert_eq!(fs::read(at.join("x.gguf")).unwrap(), b"mine");
}

#[test]
fn weights_beyond_a_type_are_named() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    fs::create_dir(&model).unwrap();
    let source = PathBuf::from(golden("llama_tied"));
    fs::copy(source.join("config.json"), model.join("config.json")).unwrap();
    let mut bytes = fs::read(source.join("model.safetensors")).unwrap();
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[head..head + 4].copy_from_slice(&1e30_f32.to_le_bytes());
    fs::write(model.join("model.safetensors"), &bytes).unwrap();
    let to = |kind| {
        [
            "export", "--model", "model", "--to", "gguf", "--type", kind, "--out", "x.gguf",
        ]
    };
    for (kind, name) in [("f16", "F16"), ("q8_0", "Q8_0"), ("q4_k", "Q8_0")] {
        let wanted = format!(
            "tensor `model.embed_tokens.weight`: value 0 is 1e30, which {name} cannot hold"
        );
        refused(home.path(), &to(kind), 1, &wanted);
    }
    export(home.path(), "model", "bf16", "x.gguf", &[]);

    bytes.truncate(head + 100);
    fs::write(model.join("model.safetensors"), &bytes).unwrap();
    let mut again = to("f32");
    again[8] = "y.gguf";
    refused(home.path(), &again, 1, "model.safetensors");
}

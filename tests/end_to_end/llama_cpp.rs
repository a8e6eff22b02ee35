//! A real server: llama.cpp serves SmolLM2 as `export` writes it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::llama_server::{LlamaServer, lines, run, stage, stage_named};
use crate::verbs::SMOLLM2;
use crate::{distill, stderr, stdout};

/// One test, for one server.
#[test]
fn llama_cpp_answers_rates_and_tells_its_log_probabilities() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    let gguf = at.join("smollm2.gguf");
    let path = gguf.to_str().unwrap();
    let export = [
        "export", "--model", SMOLLM2, "--to", "gguf", "--type", "f32", "--path", path,
    ];
    let output = distill(at, &export);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let server = LlamaServer::start(&gguf);
    log_probabilities_are_ours(&server, at, path);
    answers_become_targets(&server, at, path);
    answers_are_rated_and_compared(&server, at);
    what_it_cannot_is_said(&server, &gguf, at);
}

fn log_probabilities_are_ours(server: &LlamaServer, at: &Path, model: &str) {
    let recipe = at.join("greedy.toml");
    let text = format!(
        r#"
[models.server]
source = {{ kind = "remote", model = "{}", endpoints = ["{}"], concurrency = 2 }}
[data.questions]
source = "recipes/data/questions.txt"
chunk = "lines"
limit = 4
[[stage]]
kind = "generate"
teacher = "server"
prompts = "questions"
sampling = {{ temperature = 0.0, max_tokens = 48 }}
logprobs = 8
"#,
        server.model, server.endpoint
    );
    fs::write(&recipe, text).unwrap();
    let out = at.join("greedy");
    run(&recipe, &out, &[]);
    let records = lines(&stage(&out.join("greedy"), "generate").join("data.jsonl"));
    assert_eq!(records.len(), 4);
    for record in &records {
        let said = record["logprobs"].as_array().unwrap();
        let question = record["messages"][0]["content"].as_str().unwrap();
        let answer: String = said
            .iter()
            .map(|token| token["token"].as_str().unwrap())
            .collect();
        // SmolLM2's chat template.
        let text = format!(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
        );
        let output = distill(at, &["score", "--model", model, "--text", &text, "--json"]);
        let score: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let ours = score["logprobs"].as_array().unwrap();
        for (token, ours) in said.iter().rev().zip(ours.iter().rev()) {
            let difference = token["logprob"].as_f64().unwrap() - ours.as_f64().unwrap();
            assert!(difference.abs() < 0.1, "{question}: {token}, ours {ours}");
        }
    }
}

/// What the server told with its answers, against what the same file tells here of the same answers.
fn answers_become_targets(server: &LlamaServer, at: &Path, model: &str) {
    let recipe = at.join("targets.toml");
    let captures = |teacher: &str, from: &str| {
        format!(
            r#"
[[stage]]
kind = "capture"
teacher = "{teacher}"
data = "answers"
encoding = {{ kind = "top_k", k = 8, bits = 16 }}
sequence_length = 256
{from}
"#
        )
    };
    let text = format!(
        r#"
[models.file]
source = "{model}"
[models.server]
source = {{ kind = "remote", model = "{}", endpoints = ["{}"], concurrency = 2 }}
tokenizer = "file"
[data.questions]
source = "recipes/data/questions.txt"
chunk = "lines"
limit = 4
[[stage]]
kind = "generate"
teacher = "server"
prompts = "questions"
sampling = {{ temperature = 0.0, max_tokens = 48 }}
logprobs = 8
as = "answers"
{}{}"#,
        server.model,
        server.endpoint,
        captures("server", "from = \"answers\""),
        captures("file", "")
    );
    fs::write(&recipe, text).unwrap();
    let out = at.join("captured");
    let said = run(&recipe, &out, &[]);
    let lineage = fs::read_to_string(out.join("targets").join("lineage.json")).unwrap();
    let lineage: Value = serde_json::from_str(&lineage).unwrap();
    let shown = |number: usize| -> Value {
        let stage = lineage["stages"][number]["directory"].as_str().unwrap();
        let targets = out.join("targets").join(stage).join("targets");
        let path = targets.to_str().unwrap();
        let output = distill(at, &["shards", path, "--samples", "1000", "--json"]);
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let (told, ours) = (shown(1), shown(2));
    assert_eq!(told["tokens"], ours["tokens"]);
    // An answer that is cut has an end here that the server never came to.
    let all = told["targets"].as_u64().unwrap();
    assert!(told["known"].as_u64().unwrap() >= all - 4, "{said}");
    let samples = |shown: &Value| shown["samples"].as_array().unwrap().clone();
    let (mut worst, mut compared): (f64, usize) = (0.0, 0);
    for (told, ours) in samples(&told).iter().zip(samples(&ours)) {
        for token in told["tokens"].as_array().unwrap() {
            let mut others = ours["tokens"].as_array().unwrap().iter();
            let Some(same) = others.find(|other| other["id"] == token["id"]) else {
                continue;
            };
            let probability = |token: &Value| token["probability"].as_f64().unwrap();
            worst = worst.max((probability(token) - probability(same)).abs());
            compared += 1;
        }
    }
    println!("{compared} probabilities differ by {worst:.4} at most");
    assert!(compared > 500 && worst < 0.1, "{compared} {worst}");
}

/// The recipe's short form, made shorter. A model as small as this one rates everything alike, which makes no pairs, but a
/// best answer.
fn answers_are_rated_and_compared(server: &LlamaServer, at: &Path) {
    let out = at.join("rated");
    let mut sets = vec![
        "data.questions.limit = 3".to_string(),
        r#"stage.rated.keep = "best""#.to_string(),
        "stage.judge.sampling.temperature = 0.0".to_string(),
    ];
    for stage in ["rated", "rated_best"] {
        sets.push(format!("stage.{stage}.sampling.temperature = 0.0"));
        sets.push(format!(
            r#"stage.{stage}.aspects = ["helpfulness", "truthfulness"]"#
        ));
    }
    for model in ["large", "judge"] {
        sets.extend(server.sets(model));
    }
    run(Path::new("recipes/zephyr-data.toml"), &out, &sets);
    let run = out.join("zephyr-data");
    let of = |name: &str| stage_named(&run, name);
    assert_eq!(lines(&of("from_large").join("data.jsonl")).len(), 6);
    assert_eq!(lines(&of("from_small").join("data.jsonl")).len(), 3);
    for rating in lines(&of("rated").join("ratings.jsonl")) {
        for aspect in ["helpfulness", "truthfulness"] {
            let score = rating["ratings"][aspect]["rating"].as_u64().unwrap();
            assert!((1..=5).contains(&score), "{rating}");
        }
    }
    for best in lines(&of("best").join("data.jsonl")) {
        assert!(best["messages"].as_array().unwrap().len() >= 2, "{best}");
    }
    for compared in lines(&stage(&run, "judge").join("data.jsonl")) {
        assert!(compared["winner"].is_string(), "{compared}");
    }
}

fn what_it_cannot_is_said(server: &LlamaServer, gguf: &Path, at: &Path) {
    let model = format!(
        r#"{{ kind = "remote", model = "{}", endpoints = ["{}"] }}"#,
        server.model, server.endpoint
    );
    let question = r#"{"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}"#;
    fs::write(at.join("question.jsonl"), question).unwrap();
    let lender = gguf.to_str().unwrap();
    let eval = [
        "eval",
        "mmlu",
        "--model",
        &model,
        "--data",
        "question.jsonl",
    ];
    for arguments in [
        vec!["score", "--model", &model, "--text", "a text"],
        [&eval[..], &["--tokenizer", lender]].concat(),
    ] {
        let output = distill(at, &arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("neither `prompt_logprobs` nor `echo`"),
            "{said}"
        );
    }
}

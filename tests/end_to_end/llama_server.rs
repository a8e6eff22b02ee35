//! llama.cpp as a server, as the Python package `xllamacpp` brings it, and recipes that are run against it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::SystemTime;

use serde_json::Value;

use crate::{distill, stderr};

const PACKAGE: &str = "xllamacpp==2026.10.11549";

/// Takes the package's directory, a GGUF file and a port; ends with the one who has started it.
const SERVE: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[2], int(sys.argv[3])
params.n_ctx, params.n_parallel = 4096, 2
# Other tests run beside it, and threads that wait for one another without a core of their own stand still.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("ready", flush=True)
sys.stdin.read()
"#;

pub struct LlamaServer {
    process: Child,
    pub endpoint: String,
    /// What it is called in requests. Of its own each time: no answer of an earlier run counts.
    pub model: String,
}

impl LlamaServer {
    pub fn start(gguf: &Path) -> Self {
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
            model: format!("served-{}", now.unwrap().as_nanos()),
        }
    }
}

impl LlamaServer {
    /// What makes the remote model `name` of a recipe this one.
    pub fn sets(&self, name: &str) -> [String; 2] {
        let source = format!("models.{name}.source");
        [
            format!(r#"{source}.model = "{}""#, self.model),
            format!(r#"{source}.endpoints = ["{}"]"#, self.endpoint),
        ]
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

/// Runs a recipe in the project's directory, a shipped one in its short form.
pub fn run_recipe(recipe: &Path, out: &Path, sets: &[String]) -> Output {
    let mut arguments = vec!["run", recipe.to_str().unwrap(), "--out"];
    arguments.push(out.to_str().unwrap());
    for set in sets {
        arguments.extend(["--set", set]);
    }
    if recipe.starts_with("recipes") {
        arguments.extend(["--preset", "short"]);
    }
    distill(Path::new(env!("CARGO_MANIFEST_DIR")), &arguments)
}

/// The same, which must succeed; what it says on stderr.
pub fn run(recipe: &Path, out: &Path, sets: &[String]) -> String {
    let output = run_recipe(recipe, out, sets);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stderr(&output)
}

/// The only stage of this kind.
pub fn stage(run: &Path, kind: &str) -> PathBuf {
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

/// The directory of the stage that a recipe calls so.
pub fn stage_named(run: &Path, name: &str) -> PathBuf {
    let lineage = fs::read_to_string(run.join("lineage.json")).unwrap();
    let lineage: Value = serde_json::from_str(&lineage).unwrap();
    let stages = lineage["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["as"] == name).unwrap();
    run.join(stage["directory"].as_str().unwrap())
}

pub fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

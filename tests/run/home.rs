//! A directory with recipes, models and data, and the binary that runs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::models;

/// The recipe of every home; its runs lie in `OUT/r`.
pub const RECIPE: &str = "r.toml";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Home {
    directory: tempfile::TempDir,
    user_cache: bool,
    variables: Vec<(String, String)>,
}

impl Home {
    /// With the model directory `tiny`, the texts `train.txt` and `heldout.txt`, and a cache of its own.
    pub fn new() -> Self {
        let home = Self {
            directory: tempfile::tempdir().unwrap(),
            user_cache: false,
            variables: Vec::new(),
        };
        models::write_tiny(&home.path("tiny"));
        home.write("train.txt", models::TEXT.repeat(8));
        home.write("heldout.txt", models::TEXT);
        home
    }

    /// With the user's cache, where the real SmolLM2 is after its first use.
    pub fn with_user_cache() -> Self {
        Self {
            user_cache: true,
            ..Self::new()
        }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub fn write(&self, relative: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.path(relative), contents).unwrap();
    }

    /// Sets an environment variable of every command that follows.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_string(), value.into()));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_remove("DISTILL_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        if !self.user_cache {
            command.env("DISTILL_CACHE", self.path("cache"));
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn distill(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("distill starts")
    }

    /// What `distill score` gives the tokens of `heldout.txt`; `arguments` name the model.
    pub fn logprobs(&self, arguments: &[&str]) -> Vec<f64> {
        let text = ["--file", "heldout.txt", "--json"];
        let output = self.distill(&[&["score"], arguments, &text[..]].concat());
        assert_success(&output);
        let scores: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let logprobs = scores["logprobs"].as_array().unwrap().iter();
        logprobs.map(|logprob| logprob.as_f64().unwrap()).collect()
    }

    /// Runs the recipe into `runs`.
    pub fn run(&self) -> Output {
        self.distill(&["run", RECIPE])
    }

    /// Runs the recipe in the background, with its output thrown away.
    pub fn spawn(&self, out: &str) -> Background {
        let mut command = self.command(&["run", RECIPE, "--out", out]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Background(command.spawn().expect("distill starts"))
    }

    /// The only directory of this stage kind below `out`.
    pub fn stage(&self, out: &str, kind: &str) -> PathBuf {
        let found = self.stages(out, kind);
        assert_eq!(found.len(), 1, "{kind} in {out}: {found:?}");
        found.into_iter().next().unwrap()
    }

    pub fn stages(&self, out: &str, kind: &str) -> Vec<PathBuf> {
        let run = self.path(out).join("r");
        let prefix = format!("{kind}-");
        let entries = fs::read_dir(&run).map_or_else(|_| Vec::new(), |entries| entries.collect());
        let paths = entries.into_iter().map(|entry| entry.unwrap().path());
        let mut found: Vec<PathBuf> = paths
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with(&prefix)
            })
            .collect();
        found.sort();
        found
    }
}

/// A run under way; it ends with the test at the latest.
pub struct Background(Child);

impl Background {
    pub fn signal(&self, signal: i32) {
        let sent = unsafe { libc::kill(self.0.id() as i32, signal) };
        assert_eq!(sent, 0);
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits until `ready` holds; false when the run ended before.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !ready() {
            if self.ended().is_some() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "nothing happens");
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// How it ended, and what it said on stderr.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        let mut pipe = self.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut pipe, &mut text).unwrap();
        (self.0.wait().unwrap(), text)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It has ended already wherever a test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn assert_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

/// One clear error: its exit code, one `error:` on stderr with all of `parts`, nothing on stdout, no bug
/// and no panic. Returns the error, from `error:` on.
pub fn assert_failure(output: &Output, code: i32, parts: &[&str]) -> String {
    let shown = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    assert_eq!(stdout(output), "", "{shown}");
    for never in ["bug of its own", "panicked", "\u{1b}["] {
        assert!(!shown.contains(never), "{shown}");
    }
    let starts: Vec<usize> = shown.match_indices("error: ").map(|(at, _)| at).collect();
    assert_eq!(starts.len(), 1, "{shown}");
    let error = &shown[starts[0]..];
    for part in parts {
        assert!(error.contains(part), "no {part:?} in\n{error}");
    }
    println!("{error}");
    error.to_string()
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The lines of a stage's `metrics.jsonl`.
pub fn metrics(stage: &Path) -> Vec<Value> {
    let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// The steps that a stage's `metrics.jsonl` has, in its order.
pub fn steps(stage: &Path) -> Vec<u64> {
    let lines = metrics(stage);
    let of_steps = lines.iter().filter(|line| line.get("loss").is_some());
    of_steps
        .map(|line| line["step"].as_u64().unwrap())
        .collect()
}

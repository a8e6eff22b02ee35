//! `eval` of drafts: how much of what a model foretells its teacher would say itself.

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
chunk = "lines"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "small"
[[stage]]
kind = "eval"
task = "acceptance"
target = "tiny"
models = ["tiny", "small"]
data = "train"
prompts = 2
draft_tokens = 4
"#;

#[test]
fn a_model_drafts_for_itself_without_fault_and_another_does_not() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    let output = home.run();
    assert_success(&output);
    let scores = read_json(&home.stage("runs", "eval").join("scores.json"));
    assert_eq!(
        (&scores["task"], &scores["target"]),
        (&"acceptance".into(), &"tiny".into())
    );
    let rows = scores["rows"].as_array().unwrap();
    assert_eq!(rows[0]["acceptance_rate"], 1.0, "{scores}");
    assert!(
        rows[0]["acceptance_length"].as_f64().unwrap() > 2.5,
        "{scores}"
    );
    assert_eq!(rows[0]["prompts"], 2);
    assert!(
        rows[1]["acceptance_rate"].as_f64().unwrap() < 1.0,
        "{scores}"
    );
    let shown = stdout(&output);
    assert!(
        shown.contains("acceptance on train, drafts for tiny\n"),
        "{shown}"
    );
    assert!(shown.contains("accepted/round"), "{shown}");

    assert_eq!(stderr(&home.run()).matches(": done before\n").count(), 2);
    // The seed has no part in the likeliest tokens, but in draws.
    let seeded = |more: &[&str]| {
        let output = home.distill(&[&["run", RECIPE, "--set", "seed=5"], more].concat());
        assert_success(&output);
        stderr(&output).matches(": done before\n").count()
    };
    assert_eq!(seeded(&[]), 2);
    assert_eq!(seeded(&["--set", "stage.eval.temperature=1.0"]), 1);
}

#[test]
fn keys_of_the_other_task_and_bad_numbers_are_told() {
    let home = Home::new();
    for (right, wrong, says) in [
        ("target = \"tiny\"\n", "", "missing key `target`"),
        ("prompts = 2", "prompts = 0", "`prompts` must be at least 1"),
        ("prompts = 2", "window = 64", "unknown key `window`"),
        (
            "prompts = 2",
            "temperature = -1.0",
            "`temperature` must be 0 or more",
        ),
        (
            "prompts = 2",
            "max_tokens = 2",
            "`max_tokens` must be at least 3",
        ),
    ] {
        home.write(RECIPE, STAGES.replace(right, wrong));
        assert_failure(&home.distill(&["check", RECIPE]), 2, &[says]);
    }
    let stages = STAGES.replace("\"acceptance\"", "\"perplexity\"");
    let stages = stages.replace("prompts = 2\ndraft_tokens = 4\n", "");
    home.write(RECIPE, stages);
    let says = ["unknown key `target`"];
    assert_failure(&home.distill(&["check", RECIPE]), 2, &says);
}

//! The report of a run: finished, run again, failed, older than the report, and beside another.

use std::fs;

use crate::events::{expected, scalars};
use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const STAGES: &str = r#"# <script>alert("recipe")</script>
seed = 7
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[data.heldout]
source = "heldout.txt"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "tiny"
data = "train"
heldout = "heldout"
evaluate_every = 2
loss = [{ kind = "forward_kl", weight = 0.9 }, { kind = "cross_entropy", weight = 0.1 }]
steps = 4
sequence_length = 32
tokens_per_step = 64
checkpoint_every = 2
as = "student"
[[stage]]
kind = "eval"
task = "perplexity"
models = ["tiny", "student"]
data = "heldout"
window = 64
[preset.short]
stage.student.steps = 3
"#;

fn home() -> Home {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    let text = fs::read_to_string(home.path("train.txt")).unwrap();
    home.write("train.txt", format!("<script>alert(1)</script>\n\n{text}"));
    home
}

/// The report in the run's directory, which has to be fit to be opened anywhere.
fn report(home: &Home, out: &str) -> String {
    let text = fs::read_to_string(home.path(out).join("r/report.html")).unwrap();
    assert!(text.len() < 2_000_000);
    for foreign in [
        "<script", "http://", "https://", "src=", "url(", "@import", "<link",
    ] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    text
}

#[test]
fn a_run_ends_with_its_report_and_events() {
    let home = home();
    let output = home.distill(&["run", RECIPE, "--preset", "short", "--set", "seed=9"]);
    assert_success(&output);
    let printed = stdout(&output);
    assert!(
        printed.contains("report    runs/r/report.html\n"),
        "{printed}"
    );
    let first = report(&home, "runs");
    for part in [
        "3 of 3 done",
        "2 distill → student",
        "nll&#x2f;token less that of tiny",
        "Held-out loss",
        "tokens learned",
        "<mark class=\"learned\">",
        "steps = 3",
        "--set",
        "seed=9",
        "&lt;script&gt;alert(&quot;recipe&quot;)",
        "tokens beyond the row follow in rows of their own",
        "prefers-color-scheme",
    ] {
        assert!(first.contains(part), "no {part}");
    }
    assert!(!first.contains("has not begun") && !first.contains("class=\"notices\""));

    let stage = home.stage("runs", "distill");
    assert_eq!(scalars(&stage), expected(&stage));
    let sittings = &read_json(&home.path("runs/r/run.json"))["sittings"];
    let name = stage.file_name().unwrap().to_str().unwrap();
    assert!(sittings[name][0]["seconds"].as_f64().unwrap() > 0.0);

    // All is done before: the report has as much to tell.
    let again = home.distill(&["run", RECIPE, "--preset", "short", "--set", "seed=9"]);
    assert_success(&again);
    assert_eq!(stderr(&again).matches("done before").count(), 3);
    let without_date = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| !line.contains("<dt>last run</dt>"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_date(&report(&home, "runs")), without_date(&first));

    // The verb writes the same, and two runs side by side.
    fs::remove_file(home.path("runs/r/report.html")).unwrap();
    let output = home.distill(&["report", "runs/r"]);
    assert_success(&output);
    assert_eq!(stdout(&output), "runs/r/report.html\n");
    assert_eq!(without_date(&report(&home, "runs")), without_date(&first));
    assert_success(&home.distill(&["run", RECIPE, "--out", "other"]));
    assert_success(&home.distill(&["report", "runs/r", "other/r", "-o", "both.html"]));
    let both = fs::read_to_string(home.path("both.html")).unwrap();
    for part in [
        "student (runs&#x2f;r)",
        "student (other&#x2f;r)",
        "- seed = 9\n+ seed = 7\n",
        "runs&#x2f;r: training loss",
    ] {
        assert!(both.contains(part), "no {part}");
    }
}

#[test]
fn a_run_that_failed_says_what_is_missing() {
    let home = home();
    let text = STAGES.replace(
        "steps = 4",
        "steps = 4\noptimizer = { kind = \"adamw\", lr = 1e30 }",
    );
    home.write(RECIPE, text);
    let output = home.run();
    assert_failure(&output, 1, &["stage 2 (distill)"]);
    let text = report(&home, "runs");
    for part in [
        "1 of 3 done",
        "r: it failed: stage 2 (distill)",
        "2 distill → student is not finished",
        "3 eval has not begun",
        "as it was run",
    ] {
        assert!(text.contains(part), "no {part}");
    }
    // The next run that ends well forgets it.
    home.write(RECIPE, STAGES);
    assert_success(&home.run());
    let text = report(&home, "runs");
    assert!(
        text.contains("3 of 3 done") && !text.contains("it failed"),
        "{text}"
    );
}

#[test]
fn what_an_older_version_left_is_reported_as_far_as_it_goes() {
    let home = home();
    assert_success(&home.run());
    let before = report(&home, "runs");
    let stage = home.stage("runs", "distill");
    for newer in ["run.json", "report.html"] {
        fs::remove_file(home.path("runs/r").join(newer)).unwrap();
    }
    fs::remove_file(stage.join("seen.json")).unwrap();
    fs::remove_file(stage.join("events.out.tfevents")).unwrap();
    let output = home.distill(&["report", "runs/r"]);
    assert_success(&output);
    assert!(
        stderr(&output).contains("runs/r: run.json is missing"),
        "{}",
        stderr(&output)
    );
    let text = report(&home, "runs");
    assert!(text.contains("run.json is missing"), "{text}");
    assert!(text.contains("seen.json of 2 distill → student is missing"));
    for part in [
        "2 distill → student",
        "Held-out loss",
        "less that of tiny",
        "3 of 3 done",
    ] {
        assert!(before.contains(part) && text.contains(part), "no {part}");
    }
    // Without lineage.json the stages speak for themselves.
    fs::remove_file(home.path("runs/r/lineage.json")).unwrap();
    assert_success(&home.distill(&["report", "runs/r"]));
    assert!(report(&home, "runs").contains("3 of 3 done"));

    // What is broken costs its own part of the report alone.
    let metrics = fs::read_to_string(stage.join("metrics.jsonl")).unwrap();
    fs::write(home.stage("runs", "eval").join("scores.json"), "{}").unwrap();
    fs::write(stage.join("metrics.jsonl"), &metrics[..20]).unwrap();
    let output = home.distill(&["report", "runs/r"]);
    assert_success(&output);
    let text = report(&home, "runs");
    for broken in [
        "scores.json of 3 eval",
        "metrics.jsonl of 2 distill → student",
    ] {
        let says = format!("{broken} cannot be read (");
        assert!(
            stderr(&output).contains(&says) && text.contains(&says),
            "{says}"
        );
    }

    let nothing = home.distill(&["report", "cache"]);
    assert_failure(&nothing, 1, &["there is no run in cache", "hint: "]);
    assert_failure(
        &home.distill(&["report", "nowhere"]),
        1,
        &["nowhere is no directory"],
    );
}

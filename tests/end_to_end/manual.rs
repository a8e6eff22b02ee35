//! What the program says of itself: schema, keys, completions, pages of the manual.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{distill, stderr, stdout};

fn told(arguments: &[&str]) -> String {
    let output = distill(Path::new("."), arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    stdout(&output)
}

#[test]
fn the_schema_is_the_committed_one() {
    let committed = std::fs::read_to_string("recipes/recipe.schema.json").unwrap();
    assert!(told(&["schema"]) == committed);
}

#[test]
fn keys_are_explained() {
    for (key, wanted) in [
        (
            "stage.sft.optimizer.lr",
            &[
                "stage.sft.optimizer.lr\n",
                "a number, above 0",
                "default   0.0003",
                "example   lr = ",
            ][..],
        ),
        ("sft.lr", &["stage.sft.optimizer.lr\n"]),
        (
            "lr",
            &[
                "also in   stage.distill.optimizer.lr\n",
                "stage.dpo.optimizer.lr\n",
            ],
        ),
        (
            "data.chunk",
            &[
                "data.chunk\n",
                "\"paragraphs\"   Blank lines separate samples.",
                "default   \"file\"",
            ],
        ),
        (
            "models.source",
            &["models.source\n", "text or a table", "required  yes"],
        ),
        (
            "distill",
            &["stage.distill\n", "student ", "on_policy ", "[adapter]"][..3],
        ),
        ("eval.shots", &["(task = mmlu)", "(task = kmmlu)"]),
        (
            "loss.jsd.beta",
            &["stage.distill.loss.beta  (kind = jsd)", "default   0.5"],
        ),
        (
            "sft.schedule",
            &["{ kind = \"cosine\", warmup_steps = 0, min_lr_ratio = 0.1 }"],
        ),
        ("preset", &["--preset NAME"]),
        // As `--set` has them, with a name of the recipe's own.
        ("models.teacher.source", &["models.source\n"]),
        ("stage.student.optimizer.lr", &["stage.sft.optimizer.lr\n"]),
    ] {
        let text = told(&["explain", key]);
        for wanted in wanted {
            assert!(text.contains(wanted), "{key}: no `{wanted}` in\n{text}");
        }
    }
    let sections = told(&["explain"]);
    for wanted in ["models", "data", "stage", "preset", "seed", "decontaminate"] {
        assert!(sections.contains(wanted), "{sections}");
    }
}

#[test]
fn keys_are_explained_to_programs() {
    let list: Value = serde_json::from_str(&told(&["explain", "sft.clip_norm", "--json"])).unwrap();
    assert_eq!(list[0]["key"], "stage.sft.clip_norm");
    assert_eq!(list[0]["default"], 1.0);
    let list: Value = serde_json::from_str(&told(&["explain", "--json"])).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(5));
}

#[test]
fn an_unknown_key_is_a_wrong_flag() {
    for (key, hint) in [
        ("stage.sft.setps", "hint: did you mean `steps`?"),
        ("learning_rate", "hint: of this speak: "),
        ("prune.lr", "hint: `lr` stands in stage.sft.optimizer.lr"),
        ("", "hint: "),
    ] {
        let output = distill(Path::new("."), &["explain", key]);
        assert_eq!(output.status.code(), Some(2), "{key}");
        let says = stderr(&output);
        assert!(
            says.starts_with("error: no recipe has a key `") && says.contains(hint),
            "{says}"
        );
    }
}

/// The program's exit code, where it is installed.
fn read_by(program: &str, arguments: &[&str], text: &str) -> Option<bool> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(text.as_bytes()).ok()?;
    Some(child.wait().ok()?.success())
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = told(&["completions", shell]);
        for wanted in ["explain", "preset"] {
            assert!(script.contains(wanted), "{shell} knows no {wanted}");
        }
        assert!(
            !script.contains("sandbox-child"),
            "{shell} shows what is hidden"
        );
        let script_arguments = if shell == "fish" {
            &["--no-execute"][..]
        } else {
            &["-n"]
        };
        assert_ne!(
            read_by(shell, script_arguments, &script),
            Some(false),
            "{shell}"
        );
    }
}

#[test]
fn the_manual_has_a_page_a_verb() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("man1")).unwrap();
    std::fs::write(home.path().join("man1/other.1"), "another program's").unwrap();
    let output = distill(home.path(), &["man", "man1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pages = std::fs::read_dir(home.path().join("man1")).unwrap();
    let mut names: Vec<String> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for verb in ["distill.1", "distill-run.1", "distill-explain.1", "other.1"] {
        assert!(
            names.iter().any(|name| name == verb),
            "{verb} is not among {names:?}"
        );
    }
    assert!(
        names
            .iter()
            .all(|name| name.ends_with(".1") && !name.contains("sandbox")),
        "{names:?}"
    );
    for name in names.iter().filter(|name| name.starts_with("distill")) {
        let text = std::fs::read_to_string(home.path().join("man1").join(name)).unwrap();
        let rendered = read_by("groff", &["-k", "-man", "-Tutf8", "-ww", "-z"], &text);
        assert_ne!(rendered, Some(false), "{name}");
    }
    let nowhere = distill(home.path(), &["man", "man1/other.1"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(
        stderr(&nowhere).starts_with("error: cannot write in man1/other.1"),
        "{}",
        stderr(&nowhere)
    );
}

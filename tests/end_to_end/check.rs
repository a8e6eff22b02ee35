use std::time::Instant;

use crate::{distill, stderr, stdout};

const RECIPE: &str = r#"
[models.teacher]
source = "teacher"
[data.train]
source = "train.txt"
[[stage]]
kind = "prune"
model = "teacher"
keep_layers = [0, 1]
as = "start"
[[stage]]
kind = "distill"
student = "start"
teacher = "teacher"
data = "train"
loss = [{ kind = "forward_kl" }]
steps = 2
as = "student"
[preset.short]
stage.student.steps = 1
[preset.broken]
stage.student.stpes = 1
"#;

fn place(recipe: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("teacher")).unwrap();
    std::fs::write(home.path().join("train.txt"), "text").unwrap();
    std::fs::write(home.path().join("r.toml"), recipe).unwrap();
    home
}

#[test]
fn a_good_recipe_is_listed() {
    let home = place(&RECIPE.replace("stpes", "steps"));
    let output = distill(home.path(), &["check", "r.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = "1 prune (model = teacher) → start\n\
                    2 distill (student = start, teacher = teacher, data = train) → student\n\
                    r.toml: ok, 2 stages; presets: short, broken\n";
    assert_eq!(stdout(&output), expected);
    assert_eq!(stderr(&output), "");
}

#[test]
fn bad_recipes_and_usage_exit_with_2_and_a_missing_recipe_with_1() {
    let home = place(RECIPE);
    for (arguments, code, wanted) in [
        (
            &["check", "r.toml"][..],
            2,
            "error: unknown key `stpes`\n  --> r.toml:22:15",
        ),
        (&["check", "r.toml", "--preset", "short"], 0, ""),
        (
            &["check", "r.toml", "--preset", "shrot"],
            2,
            "hint: did you mean `short`?",
        ),
        (
            &[
                "check",
                "r.toml",
                "--preset",
                "short",
                "--set",
                "stage.student.steps=none",
            ],
            2,
            "1 | stage.student.steps=none\n  |                     ^^^^",
        ),
        (&["check"], 2, "Usage:"),
        (&["chekc"], 2, "'check'"),
        (
            &["check", "none.toml"],
            1,
            "error: cannot read the recipe none.toml: No such file or directory (os error 2)\n",
        ),
    ] {
        let output = distill(home.path(), arguments);
        let shown = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{shown}");
        assert!(shown.contains(wanted), "{arguments:?}\n{shown}");
        assert_eq!(stdout(&output).is_empty(), code != 0, "{arguments:?}");
    }
}

#[test]
fn help_and_check_are_quick() {
    let home = place(&RECIPE.replace("stpes", "steps"));
    let best = |arguments: &[&str]| {
        let run = |_| {
            let start = Instant::now();
            assert!(distill(home.path(), arguments).status.success());
            start.elapsed().as_millis()
        };
        (0..10).map(run).min().unwrap_or(u128::MAX)
    };
    assert!(
        best(&["--help"]) <= 30,
        "distill --help took {} ms",
        best(&["--help"])
    );
    assert!(best(&["check", "r.toml"]) <= 200);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    use std::process::{Command, Stdio};
    let home = place(&RECIPE.replace("stpes", "steps"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_distill"))
        .args(["check", "r.toml"])
        .current_dir(home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

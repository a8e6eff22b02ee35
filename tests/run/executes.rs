//! Filter `executes`: programs that run are kept.

use std::fs;

use crate::home::{Home, RECIPE, assert_failure, assert_success, read_json, stderr, stdout};

const RULE: &str = "{ kind = \"executes\", doctests = true, timeout = 8, memory = 256 }";

fn recipe(rule: &str) -> String {
    format!(
        "[data.exercises]\nsource = \"exercises.jsonl\"\n[[stage]]\nkind = \"filter\"\ndata = \"exercises\"\nrules = [{rule}]\n"
    )
}

/// Each with the reason for which it goes, if it does.
const EXERCISES: [(&str, &str, &str); 9] = [
    (
        "",
        "def f(x):\n    \"\"\"Twice.\n\n    >>> f(2)\n    4\n    \"\"\"\n",
        "    return 2 * x\n",
    ),
    (
        "",
        "def f(x):\n    \"\"\"Twice.\"\"\"\n",
        "    return 2 * x\nassert f(2) == 4\n",
    ),
    (
        "",
        "Twice, please.",
        "Sure!\n```python\ndef f(x):\n    return 2 * x\n```\nand its test\n```python\nassert f(1) == 2\n```",
    ),
    (
        "AssertionError",
        "def f(x):\n    \"\"\"Twice.\n\n    >>> f(2)\n    5\n    \"\"\"\n",
        "    return 2 * x\n",
    ),
    (
        "AssertionError",
        "def f(x):\n    \"\"\"Twice.\"\"\"\n",
        "    return 2 * x\nassert f(2) == 5\n",
    ),
    (
        "NameError",
        "def f(x=unknown):\n    \"\"\"Twice.\"\"\"\n",
        "    return 2 * x\n",
    ),
    (
        "timed out",
        "def f(x):\n    \"\"\"Twice.\"\"\"\n",
        "    while True: pass\nf(1)\n",
    ),
    ("exited early with code 0", "import os\n", "os._exit(0)\n"),
    (
        "no Python",
        "Twice, please.",
        "In C:\n```c\nint f(int x) { return 2 * x; }\n```",
    ),
];

#[test]
fn programs_that_run_are_kept_and_the_others_told_by_reason() {
    let home = Home::new();
    let line = |(_, prompt, completion): &(&str, &str, &str)| {
        let record =
            serde_json::json!({ "prompt": prompt, "completion": completion, "topic": "t" });
        format!("{record}\n")
    };
    let lines: Vec<String> = EXERCISES.iter().map(line).collect();
    home.write("exercises.jsonl", lines.concat());
    home.write(RECIPE, recipe(RULE));
    let output = home.run();
    if stderr(&output).contains("this system does not allow") {
        assert_failure(&output, 1, &["hint: ", "unsafe_execution = true"]);
        return;
    }
    assert_success(&output);
    let stage = home.stage("runs", "filter");
    let kept = fs::read_to_string(stage.join("data.jsonl")).unwrap();
    assert_eq!(kept, lines[..3].concat());
    let counts = read_json(&stage.join("counts.json"));
    let reasons = &counts["dropped"][1]["reasons"];
    assert_eq!(counts["dropped"][1]["records"], 6);
    assert_eq!(reasons["AssertionError"], 2);
    assert_eq!(reasons["timed out"], 1);
    let dropped = fs::read_to_string(stage.join("dropped.jsonl")).unwrap();
    for (line, (reason, ..)) in dropped.lines().zip(&EXERCISES[3..]) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["detail"], *reason);
        assert_eq!(line["rule"], "executes");
    }
    assert!(
        stdout(&output).contains("  exited early with code 0"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let home = Home::new();
    home.write("exercises.jsonl", "{\"text\": \"x = 1\"}\n");
    for (rule, wanted) in [
        (
            "{ kind = \"executes\", timeout = 0 }",
            "`timeout` lies between",
        ),
        (
            "{ kind = \"executes\", memory = 1 }",
            "`memory` lies between",
        ),
        (
            "{ kind = \"executes\", seconds = 1 }",
            "unknown key `seconds`",
        ),
    ] {
        home.write(RECIPE, recipe(rule));
        assert_failure(&home.run(), 2, &[wanted]);
    }
    home.write(
        RECIPE,
        recipe("{ kind = \"executes\", python = \"no-such-python\" }"),
    );
    assert_failure(&home.run(), 1, &["no-such-python", "hint: "]);
}

/// How many processes of the machine have `mark` among their arguments.
fn alive(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.map(|process| fs::read(process.path().join("cmdline")));
    let lines = lines.map(|line| String::from_utf8_lossy(&line.unwrap_or_default()).into_owned());
    lines.filter(|line| line.contains(mark)).count()
}

#[test]
fn a_killed_run_leaves_no_program() {
    let home = Home::new();
    let mark = "mark-of-the-orphan-8164";
    let code = format!(
        "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1000)', '{mark}'])"
    );
    let record = serde_json::json!({ "text": code });
    home.write("exercises.jsonl", format!("{record}\n"));
    home.write(RECIPE, recipe("{ kind = \"executes\", timeout = 600 }"));
    let mut run = home.spawn("runs");
    if !run.wait_until(|| alive(mark) > 0) {
        let words = run.finish().1;
        assert!(words.contains("this system does not allow"), "{words}");
        return;
    }
    drop(run);
    let has_gone = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        alive(mark) == 0
    });
    assert!(has_gone, "the program outlives its run");
}

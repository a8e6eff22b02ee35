//! Runs on a Vulkan device: the same files as on the CPU, though the numbers of a step are read some steps later.

use serde_json::Value;

use crate::home::{
    Home, RECIPE, assert_failure, assert_success, metrics, read_json, stderr, steps,
};

const STAGES: &str = r#"
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
loss = [{ kind = "forward_kl", temperature = 2.0 }, { kind = "hidden_cosine", layers = [[1, 2]] }]
optimizer = { kind = "adamw", lr = 1e-3 }
schedule = { kind = "constant" }
steps = 40
evaluate_every = 25
checkpoint_every = 20
sequence_length = 32
tokens_per_step = 64
as = "tuned"
"#;

fn home() -> Home {
    let mut home = Home::new();
    // To time kernels against each other takes a software renderer minutes.
    home.set("CUBECL_AUTOTUNE_LEVEL", "minimal");
    home.write(RECIPE, STAGES);
    home
}

fn run(home: &Home, device: &str) -> std::process::Output {
    home.distill(&["run", RECIPE, "--out", device, "--device", device])
}

/// Whether there is a device to test on.
fn has_vulkan(home: &Home) -> bool {
    let output = home.distill(&[
        "score", "--model", "tiny", "--text", "a", "--device", "vulkan",
    ]);
    let missing = stderr(&output).contains("this machine has 0 Vulkan devices");
    if missing {
        eprintln!("skipped: this machine has no Vulkan device");
    }
    !missing
}

/// A line without what differs from run to run.
fn shape(line: &Value) -> (u64, Vec<String>) {
    let keys = line.as_object().unwrap().keys().cloned().collect();
    (line["step"].as_u64().unwrap(), keys)
}

#[test]
fn a_run_writes_what_it_writes_on_the_cpu() {
    let home = home();
    if !has_vulkan(&home) {
        return;
    }
    for device in ["cpu", "vulkan"] {
        assert_success(&run(&home, device));
    }
    let [cpu, vulkan] = ["cpu", "vulkan"].map(|out| metrics(&home.stage(out, "distill")));
    let shapes = |lines: &[Value]| lines.iter().map(shape).collect::<Vec<_>>();
    assert_eq!(shapes(&vulkan), shapes(&cpu));
    let mut worst = 0.0_f64;
    for (a, b) in vulkan.iter().zip(&cpu) {
        for key in ["loss", "gradient_norm", "heldout_nll"] {
            if let (Some(a), Some(b)) = (a[key].as_f64(), b[key].as_f64()) {
                worst = worst.max((a / b - 1.0).abs());
            }
        }
    }
    println!("losses and norms of 40 steps differ by {worst:.1e} at most");
    assert!(worst < 1e-2, "{worst:e}");
}

#[test]
fn a_stopped_run_goes_on_and_a_killed_one_repeats_what_was_not_saved() {
    let home = home();
    if !has_vulkan(&home) {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut command = home.command(&["run", RECIPE, "--out", "runs", "--device", "vulkan"]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let wanted = if signal == libc::SIGINT { 3 } else { 17 };
        let told = || {
            let stages = home.stages("runs", "distill");
            stages.first().map_or(0, |stage| {
                let text = std::fs::read_to_string(stage.join("metrics.jsonl"));
                text.map_or(0, |text| text.matches("\"loss\"").count())
            })
        };
        while told() < wanted && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        unsafe { libc::kill(child.id() as i32, signal) };
        child.wait().unwrap();
    }
    assert_success(&home.distill(&["run", RECIPE, "--out", "runs", "--device", "vulkan"]));
    let stage = home.stage("runs", "distill");
    assert_eq!(steps(&stage), (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_diverged_run_stops_where_the_cpu_would_and_keeps_its_last_good_checkpoint() {
    let home = home();
    if !has_vulkan(&home) {
        return;
    }
    let recipe = STAGES
        .replace("lr = 1e-3", "lr = 1e12")
        .replace("evaluate_every = 25\n", "");
    home.write(
        RECIPE,
        recipe.replace("checkpoint_every = 20", "checkpoint_every = 1"),
    );
    let parts = [
        "stage 2 (distill): step ",
        "is not finite",
        "hint: the checkpoint of step ",
    ];
    let error = assert_failure(&run(&home, "vulkan"), 1, &parts);
    let stage = home.stage("vulkan", "distill");
    let done = steps(&stage);
    let failed = done.len() + 1;
    assert!(error.contains(&format!("step {failed}: ")), "{error}");
    let kept = format!("the checkpoint of step {} is kept", done.len());
    assert!(error.contains(&kept), "{error}");
    let state = stage.join(format!("checkpoints/step-{:08}/state.json", done.len()));
    assert_eq!(read_json(&state)["step"].as_u64(), done.last().copied());

    // Where the numbers are read late the lines before it are there all the same.
    home.write(
        RECIPE,
        recipe.replace("checkpoint_every = 20", "checkpoint_every = 30"),
    );
    let output = home.distill(&["run", RECIPE, "--out", "late", "--device", "vulkan"]);
    let error = assert_failure(&output, 1, &["is not finite", "hint: lower"]);
    let done = steps(&home.stage("late", "distill"));
    assert!(
        error.contains(&format!("step {}: ", done.len() + 1)),
        "{error}"
    );
}

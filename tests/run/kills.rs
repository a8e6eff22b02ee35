//! A run that is killed or interrupted anywhere and started again ends with the bits of one that was not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::events::{expected, scalars};
use crate::home::{Home, RECIPE, assert_success, metrics, read_json, steps};
use crate::models::{SMOL, random};
use crate::weights::digest;

/// One more than is asked for: on a fast machine the run may be done before the last.
const KILLS: usize = 11;
const STEPS: u64 = 24;

const STAGES: &str = r#"
[data.train]
source = "train.txt"
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
heldout = "heldout"
evaluate_every = 5
loss = [{ kind = "forward_kl", temperature = 2.0 }, { kind = "hidden_cosine", layers = [[2, 3]] }]
steps = 24
sequence_length = 64
tokens_per_step = 256
checkpoint_every = 2
as = "student"
[[stage]]
kind = "export"
model = "student"
to = "safetensors"
"#;

fn home() -> Home {
    let home = Home::with_user_cache();
    let teacher = random("teacher", 32, 49152, "smol", 1);
    home.write(RECIPE, format!("seed = 7{SMOL}{teacher}{STAGES}"));
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    home
}

/// Steps that the distillation has done, as its metrics tell; more than all once the stage is done.
fn steps_done(home: &Home, out: &str) -> u64 {
    let Some(stage) = home.stages(out, "distill").pop() else {
        return 0;
    };
    if stage.join("stage.json").exists() {
        return STEPS + 1;
    }
    let text = fs::read_to_string(stage.join("metrics.jsonl")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("\"loss\""))
        .count() as u64
}

/// The time of a step, in which a kill may fall anywhere.
fn step_microseconds(home: &Home) -> u64 {
    let lines = metrics(&home.stage("undisturbed", "distill"));
    let seconds: f64 = lines
        .iter()
        .filter_map(|line| line["seconds"].as_f64())
        .sum();
    (seconds / STEPS as f64 * 1e6) as u64
}

/// A generator of our own, so that a failure can be repeated: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn assert_same_result(home: &Home, out: &str) {
    for kind in ["prune", "distill", "export"] {
        let [disturbed, reference] =
            [out, "undisturbed"].map(|out| home.stage(out, kind).join("model"));
        assert_eq!(digest(&disturbed), digest(&reference), "{kind}");
    }
    let [disturbed, reference] = [out, "undisturbed"].map(|out| home.stage(out, "distill"));
    assert_eq!(steps(&disturbed), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(metrics(&disturbed).len(), metrics(&reference).len());
    assert_eq!(scalars(&disturbed), expected(&disturbed));
    let [disturbed, reference] = [out, "undisturbed"].map(|out| files(&home.path(out)));
    assert_eq!(disturbed, reference, "leftovers, or files that are missing");
}

/// All files below a directory, hidden ones too.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn ten_kills_change_no_bit() {
    let home = home();
    let mut random = Random(20260101);
    let mut killed_after = Vec::new();
    // The first kills fall into the start and the pruning, the last into saving and exporting.
    let thresholds: [u64; KILLS] = [0, 0, 1, 4, 7, 10, 12, 15, 18, 22, STEPS + 1];
    let step = step_microseconds(&home);
    for threshold in thresholds {
        let mut run = home.spawn("killed");
        let reached = run.wait_until(|| steps_done(&home, "killed") >= threshold);
        let latest = match threshold {
            0 => 8 * step,
            threshold if threshold > STEPS => step / 2,
            _ => 3 * step,
        };
        sleep(Duration::from_micros(random.below(latest)));
        if reached && run.ended().is_none() {
            run.signal(libc::SIGKILL);
        }
        let (status, text) = run.finish();
        if status.signal() == Some(libc::SIGKILL) {
            killed_after.push(steps_done(&home, "killed"));
        } else {
            // Done before the signal came.
            assert!(status.success(), "{text}");
        }
    }
    println!("killed after {killed_after:?} of {STEPS} steps");
    assert!(killed_after.len() >= KILLS - 1, "{killed_after:?}");
    let output = home.distill(&["run", RECIPE, "--out", "killed"]);
    assert_success(&output);
    assert_same_result(&home, "killed");
    println!(
        "distill {}",
        digest(&home.stage("killed", "distill").join("model"))
    );
    println!(
        "export  {}",
        digest(&home.stage("killed", "export").join("model"))
    );
}

#[test]
fn control_c_stops_after_a_step_and_the_same_command_goes_on() {
    let home = home();
    let interrupt = |ready: &dyn Fn() -> bool| {
        let mut run = home.spawn("stopped");
        assert!(run.wait_until(ready));
        run.signal(libc::SIGINT);
        let (status, text) = run.finish();
        assert_eq!(status.code(), Some(1), "{text}");
        let (_, error) = text.split_once("error: ").expect("an error");
        let (told, hint) = error.split_once('\n').expect("a hint");
        assert_eq!(hint, "hint: run the same command again to go on\n");
        println!("{told}");
        told.to_string()
    };
    let told = interrupt(&|| !home.stages("stopped", "prune").is_empty());
    let places = ["stopped before stage 2", "stopped in stage 2 after step 0"];
    assert!(places.contains(&told.as_str()), "{told}");
    let prune = || read_json(&home.path("stopped/r/plan.json"))["stages"][0]["actual"].clone();
    let took = prune();
    assert!(took["seconds"].as_f64().unwrap() > 0.0);
    for threshold in [3, 11] {
        let told = interrupt(&|| steps_done(&home, "stopped") >= threshold);
        let done = steps_done(&home, "stopped");
        assert_eq!(told, format!("stopped in stage 2 after step {done}"));
        assert_eq!(prune(), took);
    }
    let output = home.distill(&["run", RECIPE, "--out", "stopped"]);
    assert_success(&output);
    assert_same_result(&home, "stopped");
}

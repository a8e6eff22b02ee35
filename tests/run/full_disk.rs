//! A disk that fills up during training, and the same command once there is room.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::{Home, RECIPE, assert_failure, assert_success, stderr};
use crate::server::Server;
use crate::weights::digest;

const STAGES: &str = r#"
[models.tiny]
source = "tiny"
[data.train]
source = "train.txt"
[[stage]]
kind = "prune"
model = "tiny"
keep_layers = [0]
as = "start"
[[stage]]
kind = "sft"
model = "start"
data = "train"
steps = 12
sequence_length = 32
tokens_per_step = 64
checkpoint_every = 2
keep_checkpoints = 4
as = "tuned"
[[stage]]
kind = "export"
model = "tuned"
to = "safetensors"
"#;

/// A small file system in memory, for as long as the value lives.
struct Disk(PathBuf);

impl Disk {
    /// `None` where the user may not mount.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_path_buf()))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let home = Home::new();
    home.write(RECIPE, STAGES);
    let Some(disk) = Disk::mount(&home.path("disk"), "64k") else {
        println!("skipped: only root can mount a small disk to fill");
        return;
    };
    assert_success(&home.distill(&["run", RECIPE, "--out", "undisturbed"]));
    let run = || home.distill(&["run", RECIPE, "--out", "disk", "--force"]);
    let mut told = Vec::new();
    // Room for less than the first stage, for a checkpoint or two, for all but the export.
    for size in ["32k", "100k", "200k", "350k", "500k", "620k"] {
        disk.resize(size);
        let output = run();
        if output.status.success() {
            break;
        }
        let error = assert_failure(&output, 1, &["No space left on device", "hint: make room"]);
        told.push(error);
    }
    assert!(
        told.iter().any(|error| error.contains("stage 1 (prune)")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|error| error.contains("stage 2 (sft)")),
        "{told:?}"
    );
    disk.resize("10m");
    let output = run();
    assert_success(&output);
    assert!(
        stderr(&output).contains("prune → start: done before"),
        "{}",
        stderr(&output)
    );
    for kind in ["sft", "export"] {
        let [filled, reference] =
            ["disk", "undisturbed"].map(|out| digest(&home.stage(out, kind).join("model")));
        assert_eq!(filled, reference, "{kind}");
    }
}

#[test]
fn a_gguf_file_that_does_not_fit_leaves_nothing() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home.path("disk"), "32k") else {
        println!("skipped: only root can mount a small disk to fill");
        return;
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/qwen3");
    let model = golden.display().to_string();
    let arguments = [
        "export",
        "--model",
        &model,
        "--to",
        "gguf",
        "--type",
        "f32",
        "--out",
        "disk/qwen3.gguf",
    ];
    let parts = [
        "No space left on device",
        "disk/qwen3.gguf",
        "hint: make room",
    ];
    assert_failure(&home.distill(&arguments), 1, &parts);
    assert_eq!(std::fs::read_dir(home.path("disk")).unwrap().count(), 0);
    disk.resize("1m");
    assert_success(&home.distill(&arguments));
}

#[test]
fn answers_that_were_paid_for_survive_a_full_disk() {
    let mut home = Home::new();
    let Some(disk) = Disk::mount(&home.path("disk"), "400k") else {
        println!("skipped: only root can mount a small disk to fill");
        return;
    };
    let server = Server::good();
    let questions: Vec<String> = (0..200)
        .map(|n| format!("{n} {}", "why ".repeat(400)))
        .collect();
    home.write("seeds.txt", questions.join("\n"));
    home.write(
        RECIPE,
        format!(
            r#"
[models.judge]
source = {{ kind = "remote", model = "m", endpoints = ["{}"], concurrency = 8 }}
[data.seeds]
source = "seeds.txt"
chunk = "lines"
[[stage]]
kind = "generate"
teacher = "judge"
prompts = "seeds"
"#,
            server.endpoint()
        ),
    );
    let cache = home.path("disk/cache").display().to_string();
    home.set("DISTILL_CACHE", cache);
    let parts = ["answers.sqlite", "full", "hint: make room on the disk"];
    assert_failure(&home.run(), 1, &parts);
    assert!(server.hits().len() < 200);
    disk.resize("20m");
    assert_success(&home.run());
    // Lost are at most those under way and those that waited to be stored.
    let hits = server.hits().len();
    assert!((200..=216).contains(&hits), "{hits}");

    // The file itself, where the store has room.
    disk.resize("21m");
    let out = home.distill(&["run", RECIPE, "--out", "disk/runs"]);
    assert_success(&out);
    std::fs::remove_dir_all(home.path("disk/runs")).unwrap();
    let used = std::fs::metadata(home.path("disk/cache/answers.sqlite"))
        .unwrap()
        .len();
    disk.resize(&format!("{}k", used / 1024 + 300));
    let out = home.distill(&["run", RECIPE, "--out", "disk/runs"]);
    assert_failure(
        &out,
        1,
        &["cannot be written", "No space left", "hint: make room"],
    );
    assert_eq!(server.hits().len(), hits);
}

//! Drives the binary as a user does.

mod bad_models;
mod check;
mod gguf;
mod verbs;

use std::path::Path;
use std::process::{Command, Output};

/// Runs `distill` in `directory`.
fn distill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_distill"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("DISTILL_LOG")
        .output()
        .expect("distill starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

//! Drives the binary as a user does.

mod bad_models;
mod chat;
mod check;
mod gguf;
mod llama_cpp;
mod llama_server;
mod manual;
mod multiple_choice;
mod phi_data;
mod speculative;
mod verbs;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `distill` in `directory`.
fn distill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_distill"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("DISTILL_LOG")
        .output()
        .expect("distill starts")
}

/// The same, with lines to read from stdin.
fn distill_told(directory: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.args(arguments).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = (command.stderr(Stdio::piped()).spawn()).expect("distill starts");
    let mut stdin = child.stdin.take().unwrap();
    // One that ends early reads no further.
    let _ = stdin.write_all(lines.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("distill ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Equal but for numbers that differ by at most `tolerance`.
pub fn assert_near(a: &Value, b: &Value, tolerance: f64) {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let difference = (a.as_f64().unwrap() - b.as_f64().unwrap()).abs();
            assert!(difference <= tolerance, "{a} {b}");
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter()
                .zip(b)
                .for_each(|(a, b)| assert_near(a, b, tolerance));
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter()
                .for_each(|(key, a)| assert_near(a, &b[key], tolerance));
        }
        _ => assert_eq!(a, b),
    }
}

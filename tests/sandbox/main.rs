//! Programs that try to break out of the sandbox, and what becomes of them.

mod attacks;
mod forgery;
mod plain;
mod refusal;

use std::path::Path;
use std::sync::LazyLock;

use evals::sandbox::{Outcome, Program, Sandbox, SandboxConfig, SandboxError, Verdict, listed};

/// The limits of these tests: small, so that what reaches them does so soon.
fn config() -> SandboxConfig {
    SandboxConfig {
        timeout: 10.0,
        memory: 256,
        disk: 8,
        ..SandboxConfig::default()
    }
}

fn launcher() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_distill"))
}

static SANDBOX: LazyLock<Option<Sandbox>> =
    LazyLock::new(|| match Sandbox::new(launcher(), &config()) {
        Ok(sandbox) => {
            eprintln!("protections that are missing: {}", listed(&sandbox.missing));
            Some(sandbox)
        }
        Err(SandboxError::Missing(missing)) => {
            eprintln!("no sandbox on this system: {}", listed(&missing));
            None
        }
        Err(error) => panic!("{error}"),
    });

/// The sandbox, or none where the system does not allow it: refusing is all that can be tested there.
fn sandbox() -> Option<&'static Sandbox> {
    SANDBOX.as_ref()
}

fn run(sandbox: &Sandbox, code: &str) -> Outcome {
    let checks = "";
    sandbox.run(Program { code, checks }).unwrap()
}

fn failed(exception: &str) -> Verdict {
    Verdict::Failed {
        exception: exception.into(),
    }
}

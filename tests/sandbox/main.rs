//! Programs that try to break out of the sandbox, and what becomes of them.

mod attacks;
mod forgery;
mod plain;
mod refusal;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A launcher that gives up root before it does anything, and the Python that it may read; none for who is not root.
static WITHOUT_ROOT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let number = Command::new("id").arg("-u").output().ok()?;
    if number.stdout.trim_ascii() != b"0" {
        return None;
    }
    let directory = std::env::temp_dir().join("distill-tests-without-root");
    fs::create_dir_all(&directory).ok()?;
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755));
    open(&directory).ok()?;
    let (program, script) = (directory.join("distill"), directory.join("launcher"));
    fs::copy(launcher(), &program).ok()?;
    let text = format!(
        "#!/bin/sh\nexec setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all {} \"$@\"\n",
        program.display()
    );
    fs::write(&script, text).ok()?;
    open(&script).ok()?;
    Some(script)
});

/// The sandbox as the user of the tests starts it and, where that is root, as a user without rights does.
fn as_every_user(config: &SandboxConfig) -> Vec<(&'static str, Sandbox)> {
    if sandbox().is_none() {
        return Vec::new();
    }
    let own = Sandbox::new(launcher(), config).unwrap();
    let mut all = vec![("the user of the tests", own)];
    if let Some(launcher) = WITHOUT_ROOT.as_deref() {
        let config = SandboxConfig {
            python: "/usr/bin/python3".into(),
            ..config.clone()
        };
        match Sandbox::new(launcher, &config) {
            Ok(sandbox) => all.push(("a user without rights", sandbox)),
            Err(error) => eprintln!("not as a user without rights: {error}"),
        }
    }
    all
}

static EVERY_USER: LazyLock<Vec<(&str, Sandbox)>> = LazyLock::new(|| as_every_user(&config()));

/// Whoever starts the sandbox, the program ends in one of these ways.
fn ends_with(code: &str, expected: &[Verdict]) {
    for (user, sandbox) in EVERY_USER.iter() {
        let outcome = run(sandbox, code);
        assert!(expected.contains(&outcome.verdict), "{user}: {outcome:#?}");
    }
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

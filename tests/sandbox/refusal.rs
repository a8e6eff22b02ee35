//! Systems that do not allow the sandbox, and users who want none.

use std::process::Command;

use evals::sandbox::{Program, Sandbox, SandboxConfig, SandboxError, Verdict};

use crate::{config, launcher};

#[test]
fn an_interpreter_that_is_not_there_is_told() {
    let config = SandboxConfig {
        python: "no-such-python".into(),
        ..config()
    };
    let error = Sandbox::new(launcher(), &config).unwrap_err().to_string();
    assert!(
        error.contains("cannot use the Python `no-such-python`"),
        "{error}"
    );
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn what_only_distill_starts_says_so() {
    let output = Command::new(launcher())
        .arg("sandbox-child")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("started by distill itself"), "{words}");
    let help = Command::new(launcher()).arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("sandbox-child"));
}

/// A launcher in a user namespace that may make no others, as containers often are.
fn confined(directory: &std::path::Path) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let script = directory.join("launcher");
    let inner = "for kind in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${kind}_namespaces || exit 9; done; exec \"$@\"";
    let text = format!(
        "#!/bin/sh\nexec unshare --user --map-root-user sh -c '{inner}' sh {} \"$@\"\n",
        launcher().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tried = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            "echo 0 > /proc/sys/user/max_user_namespaces",
        ])
        .status();
    tried.is_ok_and(|status| status.success()).then_some(script)
}

#[test]
fn a_system_without_namespaces_is_refused_unless_the_user_insists() {
    let directory = tempfile::tempdir().unwrap();
    let Some(launcher) = confined(directory.path()) else {
        eprintln!("no user namespaces on this system: what is refused cannot be staged");
        return;
    };
    let Err(SandboxError::Missing(missing)) = Sandbox::new(&launcher, &config()) else {
        panic!("a sandbox without namespaces");
    };
    let error = SandboxError::Missing(missing).to_string();
    for part in [
        "a mount namespace",
        "a network namespace",
        "a root directory of its own",
        "hint: ",
        "unsafe_execution = true",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let insisting = SandboxConfig {
        unsafe_execution: true,
        // Nobody's files are not to be read where there is no root directory of its own.
        python: "/usr/bin/python3".into(),
        ..config()
    };
    let sandbox = match Sandbox::new(&launcher, &insisting) {
        Err(SandboxError::Python { why, .. }) => {
            return eprintln!("no Python of the system: {why}");
        }
        sandbox => sandbox.unwrap(),
    };
    assert!(!sandbox.missing.is_empty());
    let run = |code| sandbox.run(Program { code, checks: "" }).unwrap().verdict;
    assert_eq!(run("assert True"), Verdict::Passed);
    // What does not need namespaces is kept.
    let socket = "import socket\ntry:\n    socket.socket()\nexcept OSError:\n    pass\nelse:\n    raise AssertionError";
    assert_eq!(run(socket), Verdict::Passed);
    assert_eq!(run("while True: pass"), Verdict::TimedOut);
}

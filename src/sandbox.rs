//! The sandbox of stages and verbs: this very program is its launcher.

use std::path::PathBuf;

use anyhow::{Context, Result};
use evals::sandbox::{Sandbox, SandboxConfig, listed};

/// Ready to run programs; says which protections are not to be had.
///
/// # Errors
/// No Python, or a system that does not allow the sandbox.
pub fn open_sandbox(config: &SandboxConfig) -> Result<Sandbox> {
    // Linux finds the running program there even where its file has been replaced.
    let program = match cfg!(target_os = "linux") {
        true => PathBuf::from("/proc/self/exe"),
        false => std::env::current_exe().context("cannot find the program itself")?,
    };
    let sandbox = Sandbox::new(&program, config)?;
    let required = |required| {
        let missing = sandbox.missing.iter();
        missing.filter(move |one| one.protection.is_required() == required)
    };
    if required(true).next().is_some() {
        tracing::warn!("generated programs run without {}", listed(required(true)));
    }
    if required(false).next().is_some() {
        tracing::debug!("generated programs run without {}", listed(required(false)));
    }
    Ok(sandbox)
}

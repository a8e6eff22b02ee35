//! Which Python runs the programs, and which directories it needs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::SandboxError;

/// Directories of the system that every program sees, where they are.
pub(super) const SYSTEM: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];
/// What of a Python outside of these its programs need; a whole prefix may be somebody's home.
const OF_PREFIX: [&str; 4] = ["bin", "lib", "lib64", "pyvenv.cfg"];
const ASK: &str = "import os, sys; print('\\n'.join([sys.executable, os.path.realpath(sys.executable), \
                   sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]))";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interpreter {
    pub executable: PathBuf,
    /// Directories and files outside of the system's.
    pub needs: Vec<PathBuf>,
}

impl Interpreter {
    /// Asks the interpreter itself, outside of the sandbox: `python` is the user's own.
    ///
    /// # Errors
    /// An interpreter that is not there, is no Python 3, or fails.
    pub fn find(python: &str) -> Result<Self, SandboxError> {
        let unusable = |why: String| SandboxError::Python {
            python: python.to_string(),
            why,
        };
        let asked = Command::new(python)
            .args(["-I", "-c", ASK])
            .process_group(0)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| unusable(error.to_string()))?;
        if !asked.status.success() {
            let words = String::from_utf8_lossy(&asked.stderr);
            return Err(unusable(words.trim().to_string()));
        }
        let answer = String::from_utf8_lossy(&asked.stdout);
        let paths: Vec<PathBuf> = answer.lines().map(PathBuf::from).collect();
        let [executable, real, prefixes @ ..] = paths.as_slice() else {
            return Err(unusable("it does not say where it is".into()));
        };
        if !executable.is_absolute() {
            return Err(unusable("it does not say where it is".into()));
        }
        let home_of = |file: &Path| Some(file.parent()?.parent()?.to_path_buf());
        let homes = [home_of(executable), home_of(real)].into_iter().flatten();
        let mut needs = Vec::new();
        for prefix in prefixes.iter().cloned().chain(homes) {
            let resolved = prefix.canonicalize().ok();
            for prefix in [Some(prefix), resolved].into_iter().flatten() {
                needs.extend(OF_PREFIX.map(|part| prefix.join(part)));
            }
        }
        needs.retain(|path| path.exists() && !SYSTEM.iter().any(|root| path.starts_with(root)));
        needs.sort();
        needs.dedup();
        Ok(Self {
            executable: executable.clone(),
            needs,
        })
    }
}

//! How programs are run: keys of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::Limits;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// Seconds by the clock, the start of Python included; 0.1 to 3600.
    #[schemars(range(min = 0.1, max = 3600))]
    pub timeout: f64,
    /// MiB of addresses of each process, and of memory of all of them where a cgroup is to be had; 64 to 1048576.
    #[schemars(range(min = 64, max = 1048576))]
    pub memory: u64,
    /// MiB of the folder that a program may write in, and of each of its files.
    #[schemars(range(min = 1, max = 1048576))]
    pub disk: u64,
    /// The interpreter: a name that is looked for, or a path.
    pub python: String,
    /// Go on where the system does not allow all protections; no part of what comes out.
    #[serde(skip_serializing)]
    #[schemars(extend("default" = SandboxConfig::default().unsafe_execution))]
    pub unsafe_execution: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            timeout: 5.0,
            memory: 512,
            disk: 16,
            python: "python3".into(),
            unsafe_execution: false,
        }
    }
}

impl SandboxConfig {
    /// Values that read well and make no sense: the key, and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        let is_sane = self.timeout >= 0.1 && self.timeout <= 3600.0;
        let mebibytes = 1..=1u64 << 20;
        let required = [
            (is_sane, "timeout", "lies between 0.1 and 3600 seconds"),
            (
                self.memory >= 64 && mebibytes.contains(&self.memory),
                "memory",
                "lies between 64 and 1048576 MiB: Python alone needs 32",
            ),
            (
                mebibytes.contains(&self.disk),
                "disk",
                "lies between 1 and 1048576 MiB",
            ),
            (!self.python.is_empty(), "python", "names no interpreter"),
        ];
        let wrong = required.into_iter().filter(|(holds, ..)| !holds);
        wrong
            .map(|(_, key, says)| (key.to_string(), format!("`{key}` {says}")))
            .collect()
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            timeout: self.timeout,
            memory: self.memory,
            disk: self.disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_told() {
        assert_eq!(SandboxConfig::default().check(), []);
        let wrong = SandboxConfig {
            timeout: f64::NAN,
            memory: 10,
            disk: 0,
            python: String::new(),
            unsafe_execution: true,
        };
        let keys: Vec<String> = wrong.check().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["timeout", "memory", "disk", "python"]);
    }
}

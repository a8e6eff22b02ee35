//! What stands between a program and the machine, and what of it a system does not allow.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    UnprivilegedUser,
    UserNamespace,
    MountNamespace,
    ProcessNamespace,
    NetworkNamespace,
    IpcNamespace,
    HostNameNamespace,
    OwnRoot,
    Limits,
    NoNewPrivileges,
    SystemCallFilter,
    Landlock,
    MemoryCgroup,
    ProcessCgroup,
}

impl Protection {
    /// Whether a program only runs without it where the user says so. The others double what these do already.
    pub fn is_required(self) -> bool {
        !matches!(
            self,
            Self::HostNameNamespace | Self::Landlock | Self::MemoryCgroup | Self::ProcessCgroup
        )
    }

    fn described(self) -> &'static str {
        match self {
            Self::UnprivilegedUser => "an unprivileged user",
            Self::UserNamespace => "a user namespace",
            Self::MountNamespace => "a mount namespace",
            Self::ProcessNamespace => "a process namespace",
            Self::NetworkNamespace => "a network namespace",
            Self::IpcNamespace => "an IPC namespace",
            Self::HostNameNamespace => "a host name of its own",
            Self::OwnRoot => "a root directory of its own",
            Self::Limits => "limits of resources",
            Self::NoNewPrivileges => "no new privileges",
            Self::SystemCallFilter => "a filter of system calls",
            Self::Landlock => "Landlock",
            Self::MemoryCgroup => "a cgroup for memory",
            Self::ProcessCgroup => "a cgroup for processes",
        }
    }
}

/// A protection that could not be had, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub protection: Protection,
    pub reason: String,
}

impl Missing {
    pub(super) fn new(protection: Protection, reason: impl fmt::Display) -> Self {
        Self {
            protection,
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.protection.described(), self.reason)
    }
}

/// What is missing, in one line.
pub fn listed<'a>(missing: impl IntoIterator<Item = &'a Missing>) -> String {
    let each: Vec<String> = missing.into_iter().map(Missing::to_string).collect();
    each.join(", ")
}

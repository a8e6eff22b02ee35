//! Whether a recipe fits into what is free, and if not, what would make it fit.

use std::fmt::Write;

use indicatif::BinaryBytes;

use super::StageEstimate;
use super::advice::Change;

/// The stages, from 0, that are still to run and need more memory than there is. What is not known is not in the way.
pub fn too_large(stages: &[StageEstimate], limit: u64) -> Vec<usize> {
    let needs = |stage: &StageEstimate| stage.memory.as_ref().map_or(0, |memory| memory.total);
    (stages.iter().enumerate())
        .filter(|(_, stage)| stage.done != Some(true) && needs(stage) > limit)
        .map(|(number, _)| number)
        .collect()
}

/// The most that all stages still to run need on disk at a time, above what lies there.
pub fn disk_needed(stages: &[StageEstimate]) -> u64 {
    let (mut stays, mut most) = (0, 0);
    for stage in stages.iter().filter(|stage| stage.done != Some(true)) {
        let all: u64 = stage.disk.iter().map(|files| files.bytes).sum();
        most = most.max(stays + all);
        let kept = stage.disk.iter().filter(|files| files.stays);
        stays += kept.map(|files| files.bytes).sum::<u64>();
    }
    most
}

/// How much memory there is, and who says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    Free(u64),
    /// `--memory`.
    Allowed(u64),
    /// All that a device has.
    Device(u64),
}

impl Limit {
    pub fn bytes(self) -> u64 {
        match self {
            Self::Free(bytes) | Self::Allowed(bytes) | Self::Device(bytes) => bytes,
        }
    }

    fn described(self) -> String {
        let bytes = BinaryBytes(self.bytes());
        match self {
            Self::Free(_) => format!("{bytes} are free"),
            Self::Allowed(_) => format!("--memory allows {bytes}"),
            Self::Device(_) => format!("the device has {bytes}"),
        }
    }
}

/// Why the recipe should not start: what needs how much, and what would help.
pub fn refusal(
    stages: &[StageEstimate],
    too_large: &[usize],
    limit: Limit,
    changes: &[Change],
) -> String {
    let mut text = String::new();
    for &number in too_large {
        let stage = &stages[number];
        let name = stage
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!(" → {name}"));
        let needed = stage.memory.as_ref().map_or(0, |memory| memory.total);
        let _ = writeln!(
            text,
            "stage {} ({}{name}) needs {} of memory, and {}",
            stage.stage,
            stage.kind,
            BinaryBytes(needed),
            limit.described()
        );
    }
    match changes {
        [] => {
            text += "hint: no single setting makes it fit; `distill plan` shows what takes how much, --force runs it all the same"
        }
        changes => {
            text += "hint: each of these makes it fit, the cheapest first; --force runs it all the same";
            for change in changes {
                let _ = write!(
                    text,
                    "\n  {}  ({})",
                    change.flags(),
                    BinaryBytes(change.memory)
                );
            }
        }
    }
    text
}

/// Why the recipe should not start for want of disk.
pub fn disk_refusal(stages: &[StageEstimate], free: u64) -> Option<String> {
    let needed = disk_needed(stages);
    (needed > free).then(|| {
        format!(
            "the stages write {} at the most, and {} are free on the disk\nhint: `keep_checkpoints = 1` needs less; --out names another place, --force runs it all the same",
            BinaryBytes(needed),
            BinaryBytes(free)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::disk::Files;

    fn stage(done: Option<bool>, total: u64, files: &[(u64, bool)]) -> StageEstimate {
        let files = files.iter().map(|&(bytes, stays)| Files {
            what: "model",
            bytes,
            stays,
        });
        StageEstimate {
            stage: 1,
            kind: "sft",
            name: None,
            done,
            parameters: None,
            trainable: None,
            memory: Some(crate::estimate::Memory {
                total,
                parts: Vec::new(),
            }),
            memory_with_checkpointing: None,
            memory_without_checkpointing: None,
            seconds: None,
            step_seconds: None,
            steps: None,
            disk: files.collect(),
            requests: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_is_done_needs_nothing_and_what_is_not_known_is_not_in_the_way() {
        let mut unknown = stage(Some(false), 0, &[]);
        unknown.memory = None;
        let stages = [
            stage(Some(true), 9, &[(100, true)]),
            unknown,
            stage(None, 5, &[]),
        ];
        assert_eq!(too_large(&stages, 4), [2]);
        assert_eq!(too_large(&stages, 5), [0; 0]);
        assert_eq!(disk_needed(&stages), 0);
    }

    #[test]
    fn a_refusal_says_who_limits_memory() {
        let stages = [stage(None, 2 << 20, &[])];
        let says = |limit| refusal(&stages, &[0], limit, &[]);
        for (limit, wanted) in [
            (Limit::Free(1 << 20), "1.00 MiB are free"),
            (Limit::Allowed(1 << 20), "--memory allows 1.00 MiB"),
            (Limit::Device(1 << 20), "the device has 1.00 MiB"),
        ] {
            assert!(says(limit).contains(wanted), "{}", says(limit));
        }
    }

    #[test]
    fn checkpoints_go_before_the_next_stage_writes() {
        let one = stage(None, 0, &[(30, false), (10, true)]);
        let stages = [one.clone(), one];
        assert_eq!(disk_needed(&stages), 10 + 40);
        assert!(disk_refusal(&stages, 49).is_some());
        assert_eq!(disk_refusal(&stages, 50), None);
    }
}

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

/// Why the recipe should not start: what needs how much, and what would help.
pub fn refusal(
    stages: &[StageEstimate],
    too_large: &[usize],
    limit: u64,
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
            "stage {} ({}{name}) needs {} of memory, and {} are free",
            stage.stage,
            stage.kind,
            BinaryBytes(needed),
            BinaryBytes(limit)
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
    fn checkpoints_go_before_the_next_stage_writes() {
        let one = stage(None, 0, &[(30, false), (10, true)]);
        let stages = [one.clone(), one];
        assert_eq!(disk_needed(&stages), 10 + 40);
        assert!(disk_refusal(&stages, 49).is_some());
        assert_eq!(disk_refusal(&stages, 50), None);
    }
}

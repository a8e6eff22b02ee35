//! Whether a recipe fits into what is free, and if not, what would make it fit.

use std::fmt::Write;

use indicatif::BinaryBytes;

use super::StageEstimate;
use super::advice::Change;
use super::disk::{Files, Lasts, bytes_of};

/// The stages, from 0, that are still to run and need more memory than there is. What is not known is not in the way.
pub fn too_large(stages: &[StageEstimate], limit: u64) -> Vec<usize> {
    let needs = |stage: &StageEstimate| stage.memory.as_ref().map_or(0, |memory| memory.total);
    (stages.iter().enumerate())
        .filter(|(_, stage)| stage.done != Some(true) && needs(stage) > limit)
        .map(|(number, _)| number)
        .collect()
}

/// The most memory that a stage still to run needs, of those where it is known.
pub fn most_needed(stages: &[StageEstimate]) -> Option<u64> {
    let to_run = stages.iter().filter(|stage| stage.done != Some(true));
    (to_run.filter_map(|stage| Some(stage.memory.as_ref()?.total))).max()
}

/// The most that all stages still to run need on disk at a time, above what lies there.
pub fn disk_needed(stages: &[StageEstimate]) -> u64 {
    let (mut stays, mut most) = (0, 0);
    for stage in stages.iter().filter(|stage| stage.done != Some(true)) {
        most = most.max(bytes_of(&stage.disk, Lasts::Moment).saturating_add(stays));
        stays = bytes_of(&stage.disk, Lasts::Run).saturating_add(stays);
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
            text += "hint: no single setting makes it fit; `run --force` runs it all the same";
        }
        changes => {
            text += match changes {
                [_] => "hint: this makes it fit; `run --force` runs it all the same",
                _ => {
                    "hint: each of these makes it fit, the cheapest first; `run --force` runs it all the same"
                }
            };
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
    let keeps_more = |files: &Files| files.lasts == Lasts::Moment;
    let fewer = match stages.iter().any(|stage| stage.disk.iter().any(keeps_more)) {
        true => "`keep_checkpoints = 1` needs less; ",
        false => "",
    };
    (needed > free).then(|| {
        format!(
            "the stages write {} at the most, and {} are free on the disk\nhint: {fewer}--out names another place, `run --force` runs it all the same",
            BinaryBytes(needed),
            BinaryBytes(free)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(done: Option<bool>, total: u64, files: &[(u64, Lasts)]) -> StageEstimate {
        let files = files.iter().map(|&(bytes, lasts)| Files {
            what: "model",
            bytes,
            lasts,
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
            stage(Some(true), 9, &[(100, Lasts::Run)]),
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
        let one = stage(None, 0, &[(30, Lasts::Stage), (10, Lasts::Run)]);
        let stages = [one.clone(), one];
        assert_eq!(disk_needed(&stages), 10 + 40);
        assert!(disk_refusal(&stages, 49).is_some());
        assert_eq!(disk_refusal(&stages, 50), None);
    }
}

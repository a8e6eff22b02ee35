//! The files that a report reads of a stage, and what it lacks where one is missing or broken.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use datasets::selection::{COUNTS, Counts};
use serde::de::DeserializeOwned;
use serde_json::Value;
use teacher::synth::pairs::RatingCounts;
use teacher::synth::verdict::VerdictCounts;

use super::stage_files::{StageFiles, State};
use crate::json_file::read_json;
use crate::stages::{DATA, ForestReport, QuantizationScore, Scores, Seen};

pub const METRICS: &str = "metrics.jsonl";
pub const CURVES: &str = "its curves, losses and speed";
pub const TRAINING: [&str; 3] = ["sft", "distill", "dpo"];
pub const SIFTING: [&str; 4] = ["filter", "dedup", "decontaminate", "code_quality"];
const ASKING: [&str; 4] = ["generate", "rate", "judge", "exercises"];
const WRITING: [&str; 8] = [
    "generate",
    "rate",
    "judge",
    "exercises",
    "filter",
    "dedup",
    "decontaminate",
    "code_quality",
];

struct Expected {
    file: &'static str,
    /// Every one of these has the file once it is done.
    kinds: &'static [&'static str],
    /// Whether there is one. An error says why it cannot be read.
    is_there: fn(&Path) -> Result<bool>,
    /// What the report is without.
    lacks: &'static str,
}

const EXPECTED: [Expected; 9] = [
    expected("scores.json", &["eval"], holds::<Scores>, "its scores"),
    expected(
        "scores.json",
        &["quantize"],
        holds::<QuantizationScore>,
        "its bits, bytes and losses",
    ),
    expected(
        "seen.json",
        &TRAINING,
        holds::<Seen>,
        "how its samples became rows, and what it learned from",
    ),
    expected(
        COUNTS,
        &SIFTING,
        holds::<Counts>,
        "how many records it dropped, and why",
    ),
    expected(
        COUNTS,
        &["rate"],
        holds::<RatingCounts>,
        "how many answers were rated, and how",
    ),
    expected(COUNTS, &["judge"], holds::<VerdictCounts>, "its verdicts"),
    expected(
        "forest.json",
        &["code_quality"],
        holds::<ForestReport>,
        "how well its forest knows labels",
    ),
    expected(
        "ledger.json",
        &ASKING,
        holds::<Value>,
        "what was asked and what it cost",
    ),
    expected(DATA, &WRITING, opens, "its records"),
];

/// Files that some stages have of every kind.
const POSSIBLE: [Expected; 2] = [
    expected(COUNTS, &[], holds::<Value>, "what it has counted"),
    expected("ledger.json", &[], holds::<Value>, "what its requests cost"),
];

const fn expected(
    file: &'static str,
    kinds: &'static [&'static str],
    is_there: fn(&Path) -> Result<bool>,
    lacks: &'static str,
) -> Expected {
    Expected {
        file,
        kinds,
        is_there,
        lacks,
    }
}

fn holds<T: DeserializeOwned>(path: &Path) -> Result<bool> {
    Ok(read_json::<T>(path)?.is_some())
}

/// Its lines are read when they are shown.
fn opens(path: &Path) -> Result<bool> {
    match path.exists() {
        true => Ok(File::open(path)?.metadata()?.is_file()),
        false => Ok(false),
    }
}

/// What is wrong with the files of a stage, a line each.
pub fn faults(stage: &StageFiles) -> Vec<String> {
    let mut found = Vec::new();
    let of_kind: Vec<&Expected> = (EXPECTED.iter())
        .filter(|expected| stage.is(expected.kinds))
        .collect();
    let beside = POSSIBLE
        .iter()
        .filter(|possible| of_kind.iter().all(|known| known.file != possible.file));
    for expected in of_kind.iter().copied().chain(beside) {
        let is_due = stage.state == State::Done && !expected.kinds.is_empty();
        let there = (expected.is_there)(&stage.directory.join(expected.file));
        found.extend(fault(stage, expected.file, there, is_due, expected.lacks));
    }
    found
}

/// `eval-0123456789ab/scores.json of 2 eval`
pub fn named(stage: &StageFiles, file: &str) -> String {
    let directory = &stage.described.directory;
    format!("{directory}/{file} of {}", stage.title())
}

/// What is wrong with one file, if anything is. `is_due`: it has to be there.
pub fn fault(
    stage: &StageFiles,
    file: &str,
    there: Result<bool>,
    is_due: bool,
    lacks: &str,
) -> Option<String> {
    let found = match there {
        Ok(true) => return None,
        Ok(false) if !is_due => return None,
        Ok(false) => "is missing".to_string(),
        Err(error) => format!("cannot be read ({error:#})"),
    };
    let file = named(stage, file);
    Some(format!("{file} {found}: the report lacks {lacks}"))
}

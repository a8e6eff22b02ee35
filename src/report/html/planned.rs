//! What was planned for the stages, and what they took.

use serde::Deserialize;

use super::page::{Limits, Section, Table};
use super::resources::{bytes, duration};
use super::run_files::RunFiles;
use super::stage_files::StageFiles;
use crate::estimate::actual::Actual;
use crate::estimate::comparison::{FILE, difference, seconds};

/// As `plan.json` has it.
#[derive(Deserialize)]
pub struct Plans {
    stages: Vec<Compared>,
}

#[derive(Deserialize)]
struct Compared {
    digest: String,
    plan: Planned,
    actual: Option<Actual>,
}

#[derive(Deserialize)]
struct Planned {
    memory: Option<PlannedMemory>,
    seconds: Option<f64>,
    step_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct PlannedMemory {
    total: u64,
}

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("plan", "Plan against actual");
    section.each(
        runs,
        |run| &run.label,
        |run, section| {
            let Some(plans) = run.json::<Plans>(FILE) else {
                return;
            };
            let heads = [
                "stage",
                "#memory planned",
                "#memory taken",
                "#more",
                "#time planned",
                "#time taken",
                "#more",
                "#a step planned",
                "#a step taken",
                "#more",
            ];
            let mut table = Table::new("Stages that were measured", &heads);
            table
                .rows
                .extend(plans.stages.iter().filter_map(|compared| {
                    let stage = run
                        .stages
                        .iter()
                        .find(|stage| stage.described.digest == compared.digest)?;
                    row(stage, compared)
                }));
            section.table(table, limits);
        },
    );
    section
}

fn row(stage: &StageFiles, compared: &Compared) -> Option<Vec<String>> {
    let (plan, actual) = (&compared.plan, compared.actual.as_ref()?);
    let mut row = vec![stage.title()];
    let planned = plan.memory.as_ref().map(|memory| memory.total as f64);
    let taken = actual.peak_bytes.map(|bytes| bytes as f64);
    row.extend(pair(planned, taken, |count| bytes(count as u64)));
    row.extend(pair(plan.seconds, Some(actual.seconds), duration));
    row.extend(pair(plan.step_seconds, actual.step_seconds, seconds));
    Some(row)
}

/// The two, and how much more was taken than planned.
fn pair(planned: Option<f64>, taken: Option<f64>, shown: fn(f64) -> String) -> [String; 3] {
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_string(), shown);
    let more = match (planned, taken) {
        (Some(planned), Some(taken)) if planned > 0.0 => difference(planned, taken),
        _ => "–".to_string(),
    };
    [cell(planned), cell(taken), more]
}

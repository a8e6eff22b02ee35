//! What a recipe will take, from the recipe alone: memory by part, disk, time, requests.
//!
//! Shapes come from headers and from arithmetic; no weights are loaded. What is not known is said, and nothing is guessed
//! for it.

mod activations;
pub mod actual;
pub mod advice;
pub mod comparison;
mod data_facts;
pub mod disk;
mod evaluated;
pub mod fit;
pub mod known;
pub mod kv_cache;
mod layout;
mod ledger;
mod loss;
pub mod machine;
mod made_data;
mod once;
mod probe;
mod program;
mod reading;
mod requests;
pub mod serving;
mod shape;
mod stage;
pub mod stored_rates;
mod surgery;
pub mod table;
pub mod time;
mod trained;
mod training;
mod work;

use serde::Serialize;

use crate::recipe::Recipe;
use disk::Files;
use known::Facts;
pub use ledger::Memory;
use requests::Requests;
pub use stage::Setting;
use time::Pace;

/// What one stage will take.
#[derive(Clone, Debug, Serialize)]
pub struct StageEstimate {
    /// From 1.
    pub stage: usize,
    pub kind: &'static str,
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is done already and would be skipped; nothing where its digest is not known.
    pub done: Option<bool>,
    /// Of the model that is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What `checkpoint_blocks` would make of the total, or what leaving it out would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_with_checkpointing: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_without_checkpointing: Option<u64>,
    /// Of the whole stage, and of one optimizer step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<Files>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// What is not known, and what would tell it; and what is only estimated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The stages of a recipe in order. `done` says of each whether it is.
pub fn estimate(
    recipe: &Recipe,
    facts: &Facts,
    setting: Setting,
    done: &[Option<bool>],
    pace: &mut Pace,
) -> Vec<StageEstimate> {
    (0..recipe.stages.len())
        .map(|number| {
            let done = done.get(number).copied().flatten();
            of_stage(recipe, facts, setting, number, done, pace)
        })
        .collect()
}

fn of_stage(
    recipe: &Recipe,
    facts: &Facts,
    setting: Setting,
    number: usize,
    done: Option<bool>,
    pace: &mut Pace,
) -> StageEstimate {
    let stage = &recipe.stages[number];
    let mut notes = Vec::new();
    let memory = stage::memory(recipe, facts, number, setting);
    let memory = memory
        .map_err(|reason| notes.push(format!("memory is not known: {reason}")))
        .ok();
    let requests = requests::requests(recipe, facts, number);
    let requests = requests.unwrap_or_else(|reason| {
        notes.push(format!("requests are not known: {reason}"));
        None
    });
    // What is done needs no probe.
    let times = match (done, &*pace) {
        (Some(true), Pace::Probed { .. }) => time::Times::default(),
        _ => time::times(recipe, facts, number, pace),
    };
    if let Some(reason) = &times.unknown {
        let note = format!("time is not known: {reason}");
        let is_told = notes.iter().any(|note: &String| note.ends_with(reason));
        notes.extend((!is_told).then_some(note));
    }
    if times.seconds.is_some() && requests.is_some() {
        notes.push("the server's time is not in it".to_string());
    }
    if times.steps_estimated && times.steps.is_some() {
        notes.push(match times.steps_at_most {
            true => "steps are at most so many, about: an earlier stage makes the data".to_string(),
            false => "steps are estimated: nobody has counted the tokens yet".to_string(),
        });
    }
    let trained = stage
        .action
        .training()
        .and_then(|config| Some((config, facts.trained(number).ok()?)));
    let other = |checkpoint: bool| {
        let (config, trained) = trained.as_ref()?;
        let mut training = trained.training(config, setting);
        training.checkpoint = checkpoint;
        Some(training.memory().total)
    };
    StageEstimate {
        stage: number + 1,
        kind: stage.action.kind(),
        name: stage.name.clone(),
        done,
        parameters: (trained.as_ref()).map(|(_, trained)| trained.student.parameters()),
        trainable: trained.as_ref().map(|(_, trained)| trained.trainable()),
        memory_with_checkpointing: other(true),
        memory_without_checkpointing: other(false),
        memory,
        seconds: times.seconds,
        step_seconds: times.step_seconds,
        steps: times.steps,
        disk: disk::files(recipe, facts, number),
        requests,
        notes,
    }
}

//! What would make a recipe fit: changes that can be laid over it as they are written, the cheapest first.

use std::collections::BTreeSet;

use crate::cli::RecipeArgs;
use crate::recipe::{Action, Origin, Recipe, TeacherChoice};
use crate::source::{Cache, ModelSource};
use trainer::config::TrainConfig;

use super::known::Facts;
use super::stage::{Setting, memory};
use super::trained::Trained;

/// How many are named.
const NAMED: usize = 3;
/// Rows below this are not cut further.
const SHORTEST: usize = 64;

/// A change and the memory that the recipe then needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `key=value`, each for a `--set` of its own.
    pub sets: Vec<String>,
    pub memory: u64,
}

impl Change {
    /// As a shell takes it.
    pub fn flags(&self) -> String {
        let flag = |set: &String| match set.contains([' ', '"', '{']) {
            true => format!("--set '{set}'"),
            false => format!("--set {set}"),
        };
        self.sets.iter().map(flag).collect::<Vec<_>>().join(" ")
    }
}

/// The cheapest changes of the stages in `failing` that make all of the recipe fit into `limit` bytes. Cheapest is what keeps
/// the result (smaller microbatches, then block inputs instead of tapes), then what learns the same from less (stored
/// targets, a teacher in 4 bits), then an adapter, then shorter rows.
pub fn changes(
    from: &RecipeArgs,
    recipe: &Recipe,
    failing: &[usize],
    (limit, done): (u64, &[Option<bool>]),
    cache: &Cache,
    setting: Setting,
) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    let facts = Facts::new(recipe, cache, false);
    for sets in candidates(recipe, &facts, failing) {
        if found.len() == NAMED {
            break;
        }
        let all = [from.set.as_slice(), &sets].concat();
        // What does not read as a recipe is no advice.
        let Ok(changed) = Recipe::load(&from.recipe, from.preset.as_deref(), &all) else {
            continue;
        };
        let facts = facts.changed(&changed, cache);
        let needed = (0..changed.stages.len())
            .filter(|stage| done.get(*stage).copied().flatten() != Some(true))
            .filter_map(|stage| memory(&changed, &facts, stage, setting).ok())
            .map(|memory| memory.total)
            .max();
        if let Some(memory) = needed.filter(|needed| *needed <= limit) {
            let is_more = |other: &Change| other.sets.iter().all(|set| sets.contains(set));
            if !found.iter().any(is_more) {
                found.push(Change { sets, memory });
            }
        }
    }
    found
}

/// Sets to try, in the order of their cost; each changes all stages that do not fit.
fn candidates(recipe: &Recipe, facts: &Facts, failing: &[usize]) -> Vec<Vec<String>> {
    let stages: Vec<(String, &Action, &TrainConfig)> = (failing.iter())
        .filter_map(|&number| {
            let stage = &recipe.stages[number];
            let key = match &stage.name {
                Some(name) => format!("stage.{name}"),
                None => format!("stage.{}", number + 1),
            };
            Some((key, &stage.action, stage.action.training()?))
        })
        .collect();
    let each = |change: &dyn Fn(&str, &Action, &TrainConfig) -> Option<String>| -> Vec<String> {
        (stages.iter())
            .filter_map(|(key, action, config)| change(key, action, config))
            .collect()
    };
    let micro = |most: usize| {
        each(&move |key, _, config| {
            let (rows, micro) = (config.rows_per_step(), Trained::micro(config).0);
            let smaller = (1..micro)
                .rev()
                .find(|m| rows.is_multiple_of(*m) && *m <= most)?;
            Some(format!("{key}.micro_batch={smaller}"))
        })
    };
    let checkpoint = each(&|key, _, config| {
        (!config.checkpoint_blocks).then(|| format!("{key}.checkpoint_blocks=true"))
    });
    let shards = each(&|key, action, _| {
        stored_targets(recipe, action)
            .map(|name| format!("{key}.teacher={{ shards = \"{name}\" }}"))
    });
    let in_4_bits: Vec<String> = (failing.iter())
        .flat_map(|&stage| only_read(recipe, facts, stage))
        .map(|name| format!("models.{name}.held_as=\"nf4\""))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let adapter = each(&|key, _, config| {
        let full = config.adapter.is_none() && config.quantization_aware.is_none();
        full.then(|| format!("{key}.adapter={{ kind = \"lora\" }}"))
    });
    let length = |factor: usize| {
        each(&move |key, _, config| {
            let shorter = config.sequence_length / factor;
            let fits = shorter >= SHORTEST && config.tokens_per_step.is_multiple_of(shorter.max(1));
            fits.then(|| format!("{key}.sequence_length={shorter}"))
        })
    };
    let mut found = Vec::new();
    let largest = stages.iter().map(|(_, _, config)| Trained::micro(config).0);
    let mut most = largest.max().unwrap_or(1) / 2;
    while most >= 1 {
        found.push(micro(most));
        most /= 2;
    }
    found.push(checkpoint.clone());
    found.push([micro(1), checkpoint.clone()].concat());
    found.push(shards.clone());
    found.push([shards, checkpoint.clone()].concat());
    found.push(in_4_bits.clone());
    found.push([in_4_bits, micro(1), checkpoint.clone()].concat());
    found.push(adapter.clone());
    found.push([adapter.clone(), checkpoint.clone()].concat());
    found.push([adapter.clone(), micro(1), checkpoint.clone()].concat());
    for factor in [2, 4, 8] {
        found.push(length(factor));
        found.push([length(factor), checkpoint.clone()].concat());
        found.push([length(factor), adapter.clone(), checkpoint.clone()].concat());
    }
    found.retain(|sets| !sets.is_empty());
    found
}

/// The declared models that a stage only reads, and that can be held in 4 bits and are not.
fn only_read<'a>(recipe: &'a Recipe, facts: &Facts, stage: usize) -> Vec<&'a str> {
    let changed = ["model", "student"];
    let inputs = recipe.inputs[stage].iter();
    let read = inputs.filter(|input| !changed.contains(&input.reference.key.as_str()));
    read.filter_map(|input| match &input.origin {
        Origin::Model(name) => {
            let shape = facts.model(stage, &input.reference.key).ok()?;
            let is_stored = matches!(recipe.models[name].source, ModelSource::Stored(_));
            (is_stored && shape.gains_by_nf4()).then_some(name.as_str())
        }
        _ => None,
    })
    .collect()
}

/// What an earlier stage stores of this stage's teacher on the same data.
fn stored_targets<'a>(recipe: &'a Recipe, action: &Action) -> Option<&'a str> {
    let Action::Distill(distill) = action else {
        return None;
    };
    let TeacherChoice::Model(teacher) = &distill.inputs.teacher else {
        return None;
    };
    recipe.stages.iter().find_map(|stage| match &stage.action {
        Action::Capture(capture)
            if capture.teacher == *teacher && capture.data == distill.inputs.data =>
        {
            stage.name.as_deref()
        }
        _ => None,
    })
}

//! `distill check`: everything about a recipe that needs neither a device nor the network.

use std::io::Write;

use crate::cli::CheckArgs;
use crate::recipe::{Input, Recipe, Stage};

pub fn run(arguments: CheckArgs) -> anyhow::Result<()> {
    let CheckArgs { recipe: from } = arguments;
    let recipe = Recipe::load(&from.recipe, from.preset.as_deref(), &from.set)?;
    // A preset that nobody asked for must fit as well: it will be used some day.
    if from.preset.is_none() {
        for preset in &recipe.presets {
            Recipe::load(&from.recipe, Some(preset), &from.set)?;
        }
    }
    let mut out = std::io::stdout().lock();
    for (at, (stage, inputs)) in recipe.stages.iter().zip(&recipe.inputs).enumerate() {
        writeln!(out, "{}", line(at, stage, inputs))?;
    }
    let presets = match recipe.presets.as_slice() {
        [] => String::new(),
        presets => format!("; presets: {}", presets.join(", ")),
    };
    let stages = match recipe.stages.len() {
        1 => "1 stage".to_string(),
        n => format!("{n} stages"),
    };
    writeln!(out, "{}: ok, {stages}{presets}", recipe.path.display())?;
    Ok(())
}

/// `2 distill (student = start, teacher = teacher, data = train) → student`
fn line(at: usize, stage: &Stage, inputs: &[Input]) -> String {
    // A list's names stand under one key.
    let mut used: Vec<(&str, Vec<&str>)> = Vec::new();
    for Input { reference, .. } in inputs {
        let key = reference.key.split('.').next().unwrap_or_default();
        match used.last_mut().filter(|(last, _)| *last == key) {
            Some((_, names)) => names.push(&reference.name),
            None => used.push((key, vec![&reference.name])),
        }
    }
    let used: Vec<String> = (used.into_iter())
        .map(|(key, names)| match names.as_slice() {
            [name] => format!("{key} = {name}"),
            names => format!("{key} = [{}]", names.join(", ")),
        })
        .collect();
    let made = stage
        .name
        .as_ref()
        .map_or_else(String::new, |name| format!(" → {name}"));
    format!(
        "{} {} ({}){made}",
        at + 1,
        stage.action.kind(),
        used.join(", ")
    )
}

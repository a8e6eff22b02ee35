//! Where results come from: recipe, inputs and digests of the stages, versions and seeds.

use super::difference::difference;
use super::page::{Facts, Limits, Part, Section, Table, cut};
use super::resources::{date, duration};
use super::run_files::RunFiles;
use super::stage_files::State;
use crate::run_record::Ended;

/// Characters of a digest that tell it from others; directories have as many.
const SHORT: usize = 12;

/// The run in a few lines.
pub fn facts(run: &RunFiles) -> Facts {
    let mut rows = Vec::new();
    let mut say = |what: &str, text: String| rows.push((what.to_string(), text));
    let done = run.stages.iter().filter(|stage| stage.state == State::Done);
    say(
        "stages",
        format!("{} of {} done", done.count(), run.stages.len()),
    );
    if let Some(record) = &run.record {
        let took = record.seconds.map_or_else(String::new, |seconds| {
            format!(" after {}", duration(seconds))
        });
        let ended = match &record.ended {
            Ended::NotYet => "under way, or killed",
            Ended::Finished => "finished",
            Ended::Stopped => "stopped",
            Ended::Failed(_) => "failed",
        };
        say(
            "last run",
            format!("{}, {ended}{took}", date(record.started)),
        );
        say("recipe", cut(&record.recipe, 200));
        if let Some(preset) = &record.preset {
            say("preset", cut(preset, 200));
        }
        for flag in record.set.iter().take(12) {
            say("--set", cut(flag, 200));
        }
        say("seed", record.seed.to_string());
        say(
            "device",
            format!(
                "{}, {} threads",
                record.machine.device, record.machine.threads
            ),
        );
        if let Some(processor) = &record.machine.processor {
            say("processor", cut(processor, 200));
        }
    }
    Facts {
        title: cut(&run.label, 200),
        rows,
    }
}

pub fn lineage(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("lineage", "Lineage");
    section.each(runs, |run| &run.label, |run, section| {
        let mut table = Table::new("Stages and their inputs", &["stage", "digest", "inputs", "directory"]);
        for stage in &run.stages {
            let inputs = stage.described.inputs.iter().map(|input| {
                let digest = cut_digest(&input.digest);
                format!("{} = {} ({digest})", input.key, input.name)
            });
            table.row([
                stage.title(),
                cut_digest(&stage.described.digest),
                inputs.collect::<Vec<_>>().join(", "),
                stage.described.directory.clone(),
            ]);
        }
        table.remarks.push(format!(
            "Digests are SHA-256, their first {SHORT} digits; lineage.json has all of them. A stage's is made of its \
             settings, its inputs' digests and, where it draws random numbers, the seed."
        ));
        section.table(table, limits);
    });
    section
}

fn cut_digest(digest: &str) -> String {
    digest.chars().take(SHORT).collect()
}

pub fn recipe(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("recipe", "Recipe");
    let code = |title: String, text: &str, open: bool| Part::Code {
        title,
        text: cut(text, limits.recipe),
        open,
    };
    if let [a, b] = runs
        && let (Some(first), Some(second)) = (&a.record, &b.record)
    {
        let title = format!("from {} to {}", a.label, b.label);
        let text = difference(&first.as_run, &second.as_run);
        section.parts.push(code(title, &text, true));
    }
    for run in runs {
        let Some(record) = &run.record else {
            continue;
        };
        let of = if runs.len() > 1 {
            format!(" ({})", run.label)
        } else {
            String::new()
        };
        let as_run = format!("as it was run, with preset and overrides applied{of}");
        section
            .parts
            .push(code(as_run, &record.as_run, runs.len() == 1));
        let as_written = format!("the file as it is written{of}");
        section.parts.push(code(as_written, &record.written, false));
    }
    section
}

pub fn versions(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("versions", "Versions and seeds");
    section.each(runs, |run| &run.label, |run, section| {
        let heads = ["stage", "distill", "#seed", "device", "#threads", "processor"];
        let mut table = Table::new("What made each stage", &heads);
        for stage in &run.stages {
            let machine = stage.sittings.last().map(|sitting| &sitting.machine);
            let told = |text: Option<String>| text.unwrap_or_else(|| "–".to_string());
            table.row([
                stage.title(),
                stage.described.version.clone(),
                stage.described.seed.to_string(),
                told(machine.map(|machine| machine.device.clone())),
                told(machine.map(|machine| machine.threads.to_string())),
                told(machine.and_then(|machine| machine.processor.clone())),
            ]);
        }
        table.remarks.push(
            "The same recipe, seed, number of threads and kind of processor give the same bits on a CPU.".to_string(),
        );
        section.table(table, limits);
    });
    section
}

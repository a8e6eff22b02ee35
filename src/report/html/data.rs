//! What became of data on its way: filters, duplicates, ratings, answers, rows.

use datasets::selection::Counts;
use serde_json::Value;
use teacher::synth::in_order::Dropped;
use teacher::synth::pairs::RatingCounts;
use teacher::synth::verdict::VerdictCounts;

use super::expected::SIFTING;
use super::page::{Limits, Section, Table};
use super::run_files::RunFiles;
use super::stage_files::StageFiles;
use crate::report::{preferences, sifted_rows};
use crate::stages::{ForestReport, Seen};

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("data", "Data: counts and what was dropped");
    section.each(
        runs,
        |run| &run.label,
        |run, section| {
            for stage in &run.stages {
                for table in tables(stage) {
                    section.table(table, limits);
                }
            }
        },
    );
    section
}

fn tables(stage: &StageFiles) -> Vec<Table> {
    let mut found = vec![outcome(stage)];
    if let Ok(Some(seen)) = Seen::read(&stage.directory) {
        found.push(rows(stage, &seen));
    }
    let of = stage
        .described
        .inputs
        .first()
        .map_or("", |input| &input.name);
    let counts = "counts.json";
    match stage.described.kind.as_str() {
        kind if SIFTING.contains(&kind) => {
            if let Some(counts) = stage.json::<Counts>(counts) {
                let title = format!("{}: records of {of}", stage.title());
                found.push(shares(title, "rule", sifted_rows(&counts), counts.records));
            }
            found.extend(
                stage
                    .json::<ForestReport>("forest.json")
                    .map(|report| forest(stage, &report)),
            );
        }
        "rate" => {
            if let Some(counts) = stage.json::<RatingCounts>(counts) {
                found.extend(ratings(stage, &counts));
            }
        }
        "judge" => {
            if let Some(counts) = stage.json::<VerdictCounts>(counts) {
                found.push(verdicts(stage, &counts));
            }
        }
        _ => {
            if let Some(Value::Object(counts)) = stage.json::<Value>(counts) {
                let mut table = Table::new(stage.title(), &["counted", "#how many"]);
                for (what, count) in counts {
                    table.row([what.replace('_', " "), plain(&count)]);
                }
                found.push(table);
            }
        }
    }
    found
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn shares(title: String, what: &str, rows: Vec<(String, u64)>, of: u64) -> Table {
    let mut table = Table::new(title, &[what, "#how many", "#share"]);
    for (what, count) in rows {
        let share = 100.0 * count as f64 / of.max(1) as f64;
        table.row([what, count.to_string(), format!("{share:.1} %")]);
    }
    table
}

/// What packing made of the samples of a training stage.
fn rows(stage: &StageFiles, seen: &Seen) -> Table {
    let packing = &seen.packing;
    let title = format!(
        "{}: samples in rows of {} tokens",
        stage.title(),
        seen.sequence_length
    );
    let mut table = Table::new(title, &["counted", "#how many", "#share"]);
    let mut add = |what: &str, count: u64, of: u64| {
        let share = match of {
            0 => String::new(),
            of => format!("{:.1} %", 100.0 * count as f64 / of as f64),
        };
        table.row([what.to_string(), count.to_string(), share]);
    };
    let places = packing.rows * seen.sequence_length as u64;
    match seen.pairs {
        true => {
            add("pairs", packing.samples / 2, 0);
            add(
                "answers truncated",
                packing.truncated_samples,
                packing.samples,
            );
            add(
                "pairs dropped: no room for both answers",
                packing.dropped_samples / 2,
                packing.samples / 2,
            );
            add("pairs dropped: equal answers", seen.equal_pairs, 0);
            add(
                "pairs dropped: an empty prompt or answer",
                seen.empty_pairs,
                0,
            );
            add(
                "pairs dropped: nothing to learn",
                seen.without_targets / 2,
                0,
            );
        }
        false => {
            add("samples", packing.samples, 0);
            add("samples split", packing.split_samples, packing.samples);
            add(
                "samples truncated",
                packing.truncated_samples,
                packing.samples,
            );
            add(
                "samples dropped: the prompt fills the row",
                packing.dropped_samples,
                packing.samples,
            );
            add("samples dropped: nothing to learn", seen.without_targets, 0);
        }
    }
    add("tokens", packing.tokens, 0);
    add("tokens learned", seen.supervised_tokens, packing.tokens);
    add("tokens truncated", packing.truncated_tokens, packing.tokens);
    add("tokens dropped", packing.dropped_tokens, packing.tokens);
    add("rows", packing.rows, 0);
    add(
        "rows dropped: no target in them",
        packing.dropped_rows,
        packing.rows,
    );
    add("positions of padding", packing.padding_tokens, places);
    add("batches an epoch", seen.batches_per_epoch, 0);
    table
}

/// What became of the seeds of a stage that asks.
fn outcome(stage: &StageFiles) -> Table {
    let mut table = Table::new(
        format!("{}: answers", stage.title()),
        &["counted", "#how many"],
    );
    let Some(ledger) = stage.json::<Value>("ledger.json") else {
        return table;
    };
    let outcome = &ledger["last_run"]["outcome"];
    let mut add = |what: String, count: &Value| {
        if let Some(count) = count.as_u64() {
            table.row([what, count.to_string()]);
        }
    };
    for (key, what) in [
        ("seeds", "asked about"),
        ("records", "records"),
        ("cut", "cut at max_tokens"),
    ] {
        add(what.to_string(), &outcome[key]);
    }
    for (reason, count) in outcome["dropped"].as_object().into_iter().flatten() {
        let known: Option<Dropped> = serde_json::from_value(reason.as_str().into()).ok();
        let reason =
            known.map_or_else(|| reason.replace('_', " "), |known| known.describe().into());
        add(format!("dropped: {reason}"), count);
    }
    table
}

fn forest(stage: &StageFiles, report: &ForestReport) -> Table {
    let held_out = &report.held_out;
    let title = format!(
        "{}: the forest on labels that it has not seen",
        stage.title()
    );
    let heads = [
        "#labels",
        "#high",
        "#folds",
        "#precision",
        "#recall",
        "#F1",
        "#AUC",
    ];
    let mut table = Table::new(title, &heads);
    table.row([
        report.labels.to_string(),
        report.high.to_string(),
        report.folds.to_string(),
        format!("{:.3}", held_out.precision),
        format!("{:.3}", held_out.recall),
        format!("{:.3}", held_out.f1),
        format!("{:.3}", held_out.auc),
    ]);
    table
}

fn ratings(stage: &StageFiles, counts: &RatingCounts) -> [Table; 2] {
    let title = format!(
        "{}: {} of {} answers rated, to {} prompts",
        stage.title(),
        counts.rated,
        counts.answers,
        counts.groups
    );
    let rows = preferences::rated_rows("kept", counts);
    let prompts = shares(title, "prompts", rows, counts.groups as u64);
    let title = format!("{}: mean ratings", stage.title());
    let mut models = Table::new(title, &["answers of", "#rated", "#mean score"]);
    for (model, score) in &counts.models {
        let model = if model.is_empty() {
            "(not said)"
        } else {
            model
        };
        models.row([
            super::page::cut(model, 32),
            score.rated.to_string(),
            format!("{:.3}", score.mean()),
        ]);
    }
    [prompts, models]
}

fn verdicts(stage: &StageFiles, counts: &VerdictCounts) -> Table {
    let called = |key| stage.input(key).map_or(key, |input| &input.name);
    let (a, b) = (called("a"), called("b"));
    let title = format!("{}: {a} against {b}", stage.title());
    let rows = preferences::verdict_rows(a, b, counts);
    let mut table = shares(title, "verdict", rows, counts.judged());
    let (rate, error) = counts.win_rate();
    if counts.judged() > 0 {
        let error = match counts.judged() {
            1 => String::new(),
            _ => format!(" (std error {:.1})", 100.0 * error),
        };
        table.remarks.push(format!(
            "win rate of {a}: {:.1} %{error}, ties count half",
            100.0 * rate
        ));
    }
    if let Some(bias) = counts.position_bias() {
        table.remarks.push(format!(
            "position bias: {:.1} % of {} verdicts are for the answer shown first",
            100.0 * bias,
            counts.decided
        ));
    }
    table
}

//! Tables of scores with their standard errors, and how far the models of a table are apart.

use serde_json::Value;

use super::page::{Head, Limits, Section, Table};
use super::run_files::RunFiles;
use super::stage_files::StageFiles;
use crate::report::scores::{columns, measured_remarks, millions, values};
use crate::stages::{Measured, QuantizationScore, Score, Scores};

/// Numbers that sum a score up: the key, its name, and whether it is a share. Errors are those beside them.
const SUMS: [(&str, &str, bool); 3] = [
    ("nll", "nll/token", false),
    ("accuracy", "accuracy", true),
    ("acceptance_length", "accepted/round", false),
];

pub fn section(runs: &[RunFiles], limits: &Limits) -> Section {
    let mut section = Section::new("evaluation", "Evaluation");
    // Tables of one task on the same data stand together, whichever run they are of.
    let mut found: Vec<(Scores, Vec<String>)> = Vec::new();
    for run in runs {
        for stage in run.stages.iter().filter(|stage| stage.is(&["eval"])) {
            let Some(scores) = stage.json::<Scores>("scores.json") else {
                continue;
            };
            let label = if runs.len() > 1 {
                run.label.clone()
            } else {
                String::new()
            };
            let labels = vec![label; scores.rows.len()];
            let same = |(other, known): &&mut (Scores, Vec<String>)| {
                (&other.task, &other.data, &other.target)
                    == (&scores.task, &scores.data, &scores.target)
                    && heads(other) == heads(&scores)
                    && !known.contains(&labels[0])
            };
            match found.iter_mut().filter(|_| !labels.is_empty()).find(same) {
                Some((other, known)) => {
                    other.rows.extend(scores.rows);
                    known.extend(labels);
                }
                None => found.push((scores, labels)),
            }
        }
    }
    for (scores, labels) in &found {
        section.table(table(scores, labels), limits);
        section.table(differences(scores, labels), limits);
    }
    section.each(
        runs,
        |run| &run.label,
        |run, section| {
            section.table(quantizations(&run.stages), limits);
        },
    );
    section
}

fn heads(scores: &Scores) -> Vec<(String, usize)> {
    scores
        .rows
        .first()
        .map_or_else(Vec::new, |row| columns(&row.measured))
}

fn named(row: &Score, label: &str) -> String {
    match label {
        "" => row.model.clone(),
        run => format!("{} ({run})", row.model),
    }
}

fn title(scores: &Scores) -> String {
    let target = scores.target.iter();
    let target: String = target.map(|name| format!(", drafts for {name}")).collect();
    format!("{} on {}{target}", scores.task, scores.data)
}

fn table(scores: &Scores, labels: &[String]) -> Table {
    let mut table = Table::new(title(scores), &["model", "#parameters"]);
    let columns = heads(scores).into_iter();
    table
        .heads
        .extend(columns.map(|(name, _)| Head::number(name)));
    for (row, label) in scores.rows.iter().zip(labels) {
        let mut cells = vec![
            named(row, label),
            row.parameters.map_or("-".into(), millions),
        ];
        cells.extend(values(&row.measured));
        table.rows.push(cells);
        table.remarks.extend(measured_remarks(row));
    }
    table
}

struct Sum {
    name: String,
    value: f64,
    error: Option<f64>,
    is_share: bool,
}

/// The number that a score comes down to, found by its key.
fn sum(measured: &Measured) -> Option<Sum> {
    let json = serde_json::to_value(measured).ok()?;
    let error = json["standard_error"].as_f64();
    if let Some(pass) = json["pass_at"].as_array().and_then(|all| all.first()) {
        return Some(Sum {
            name: format!("pass@{}", pass["k"]),
            value: pass["estimate"].as_f64()?,
            error,
            is_share: true,
        });
    }
    SUMS.iter().find_map(|(key, name, is_share)| {
        let value = json.get(*key).and_then(Value::as_f64)?;
        let (name, is_share) = ((*name).to_string(), *is_share);
        Some(Sum {
            name,
            value,
            error,
            is_share,
        })
    })
}

/// Every model against the first.
fn differences(scores: &Scores, labels: &[String]) -> Table {
    let mut rows = scores.rows.iter().zip(labels);
    let Some((first, label)) = rows.next() else {
        return Table::default();
    };
    let Some(base) = sum(&first.measured) else {
        return Table::default();
    };
    let base_name = named(first, label);
    let difference = format!("#{} less that of {base_name}", base.name);
    let heads = ["model", &difference, "#(std error)"];
    let mut table = Table::new(format!("{}: differences", title(scores)), &heads);
    for (row, label) in rows {
        let Some(other) = sum(&row.measured).filter(|other| other.name == base.name) else {
            continue;
        };
        let error = base.error.zip(other.error).map(|(a, b)| a.hypot(b));
        let shown = |value: f64, sign: bool| match (base.is_share, sign) {
            (true, true) => format!("{:+.2} points", 100.0 * value),
            (true, false) => format!("{:.2}", 100.0 * value),
            (false, true) => format!("{value:+.4}"),
            (false, false) => format!("{value:.4}"),
        };
        table.row([
            named(row, label),
            shown(other.value - base.value, true),
            error.map_or_else(|| "–".to_string(), |error| shown(error, false)),
        ]);
    }
    table.remarks.push(
        "Errors are √(a² + b²), as if the two were measured on different samples. On the same samples they are mostly \
         smaller; “distill eval --compare” counts pairs of answers."
            .to_string(),
    );
    table
}

fn quantizations(stages: &[StageFiles]) -> Table {
    let heads = [
        "model",
        "method",
        "#bits/weight",
        "#bytes",
        "#nll before",
        "#nll after",
        "#difference",
        "#kl/token",
        "#seconds",
    ];
    let mut table = Table::new("Quantised linear layers", &heads);
    for stage in stages.iter().filter(|stage| stage.is(&["quantize"])) {
        let Some(score) = stage.json::<QuantizationScore>("scores.json") else {
            continue;
        };
        let after = &score.difference;
        table.row([
            stage.described.name.clone().unwrap_or(score.model),
            score.method,
            format!("{:.2}", score.bits_per_weight),
            super::resources::bytes(score.bytes),
            format!("{:.4}", after.nll_first),
            format!("{:.4}", after.nll_second),
            format!("{:+.4}", after.nll_second - after.nll_first),
            format!("{:.4}", after.mean_kl),
            format!("{:.1}", score.seconds),
        ]);
    }
    table
}

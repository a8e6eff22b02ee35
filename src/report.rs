//! What a run ends with: tables of scores, where the models lie, what to type next.

mod html;
mod preferences;
pub mod scores;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use datasets::selection::Counts;
use indicatif::{FormattedDuration, HumanBytes};

use crate::plan::PlannedStage;
use crate::progress::peak_resident_bytes;
use crate::recipe::{Action, Thing};
use crate::stages::{Chain, DATA, ForestReport, QuantizationScore, export_target};
pub use html::write_report;
use preferences::{judged, learned, rated};
use scores::table;

/// The closing text of a finished run.
///
/// # Errors
/// When a finished stage's files are gone or damaged.
pub fn summary(chain: &Chain, took: Duration, report: Option<&Path>) -> Result<String> {
    let mut text = String::new();
    let mut exported = None;
    let (mut quantized, mut data, mut models) = (Vec::new(), Vec::new(), Vec::new());
    for stage in &chain.stages {
        let made = |file: &str| {
            let path = stage.directory.join(file).display().to_string();
            match &stage.name {
                Some(name) => (path.clone(), format!("{path} ({name})")),
                None => (path.clone(), path),
            }
        };
        if stage.action.makes() == Thing::Model {
            models.push(made("model"));
        }
        match &stage.action {
            Action::Eval(_) => write!(text, "\n{}", table(&Chain::scores(stage)?))?,
            Action::Generate(_) | Action::Exercises(_) => data.push(made(DATA)),
            Action::Filter(_)
            | Action::Dedup(_)
            | Action::Decontaminate(_)
            | Action::CodeQuality(_) => {
                write!(text, "\n{}", sifted(stage, &Chain::counts(stage)?))?;
                if let Action::CodeQuality(_) = stage.action {
                    text += &forest(&Chain::forest_report(stage)?);
                }
                data.push(made(DATA));
            }
            Action::Rate(config) => {
                let counts = Chain::rating_counts(stage)?;
                write!(text, "\n{}", rated(config.keep, &counts, chain))?;
                data.push(made(DATA));
            }
            Action::Dpo(_) => {
                let name = stage.name.as_deref().unwrap_or("the model");
                if let Some(scores) = Chain::pair_scores(stage, name)? {
                    write!(text, "\n{}", learned(&scores))?;
                }
            }
            Action::Judge(config) => {
                let counts = Chain::verdict_counts(stage)?;
                write!(text, "\n{}", judged(config, &counts))?;
                data.push(made(DATA));
            }
            Action::Export(config) => exported = Some(export_target(stage, config)),
            Action::Quantize(_) => quantized.push(Chain::quantization_score(stage)?),
            _ => {}
        }
    }
    if !quantized.is_empty() {
        write!(text, "\n{}", quantization_table(&quantized))?;
    }
    writeln!(text)?;
    if let Some(run) = chain.run_directory() {
        writeln!(text, "stages    {}", run.display())?;
        writeln!(text, "lineage   {}", run.join("lineage.json").display())?;
    }
    if let Some(report) = report {
        writeln!(text, "report    {}", report.display())?;
    }
    for (_, named) in &data {
        writeln!(text, "data      {named}")?;
    }
    if let Some(path) = &exported {
        writeln!(text, "exported  {}", path.display())?;
    } else {
        for (_, named) in &models {
            writeln!(text, "model     {named}")?;
        }
    }
    let memory = peak_resident_bytes().map_or_else(String::new, |bytes| {
        format!(", {} at the most", HumanBytes(bytes))
    });
    writeln!(text, "took      {}{memory}", FormattedDuration(took))?;
    let last = models.last().map(|(path, _)| path.clone());
    if let Some(path) = exported.map(|path| path.display().to_string()).or(last) {
        writeln!(
            text,
            "\nnext: distill generate --model {path} --prompt \"Once upon a time\""
        )?;
        writeln!(
            text,
            "      distill score --model {path} --text \"It was a fine day.\""
        )?;
    }
    Ok(text)
}

/// What a filter dropped, by rule, and what it kept.
fn sifted(stage: &PlannedStage, counts: &Counts) -> String {
    let named = stage
        .inputs
        .first()
        .map_or("", |input| &input.input.reference.name);
    let mut text = format!("{} of {named}\n", stage.action.kind());
    let rows = sifted_rows(counts);
    let wide = rows
        .iter()
        .map(|(rule, _)| rule.chars().count())
        .max()
        .unwrap_or(0);
    text += &format!("{:wide$}  {:>10}  {:>7}\n", "rule", "records", "share");
    for (rule, records) in rows {
        let share = 100.0 * records as f64 / counts.records.max(1) as f64;
        text += &format!("{rule:wide$}  {records:>10}  {share:>5.1} %\n");
    }
    text
}

/// By rule and reason how many records it took, and how many are kept.
fn sifted_rows(counts: &Counts) -> Vec<(String, u64)> {
    // What said nothing comes first, and mostly there is none.
    let (unusable, ruled) = counts.dropped.split_at(1.min(counts.dropped.len()));
    let unusable = unusable.iter().filter(|count| count.records > 0);
    let dropped = (unusable.chain(ruled)).flat_map(|count| {
        let reasons = count.reasons.iter();
        let reasons = reasons.map(|(reason, records)| (format!("  {reason}"), *records));
        std::iter::once((count.rule.clone(), count.records)).chain(reasons)
    });
    let kept = ("kept".to_string(), counts.kept);
    dropped.chain([kept]).collect()
}

/// How well the forest of a stage knows labels that it has not seen.
fn forest(report: &ForestReport) -> String {
    let held_out = &report.held_out;
    format!(
        "forest on {} labels, {} of them high, in {} folds: precision {:.3}, recall {:.3}, F1 {:.3}, AUC {:.3}\n",
        report.labels,
        report.high,
        report.folds,
        held_out.precision,
        held_out.recall,
        held_out.f1,
        held_out.auc
    )
}

fn quantization_table(scores: &[QuantizationScore]) -> String {
    let wide = |least: usize, column: fn(&QuantizationScore) -> &str| {
        let widths = scores.iter().map(|score| column(score).chars().count());
        widths.max().unwrap_or(0).max(least)
    };
    let (model, method) = (
        wide(5, |score| &score.model),
        wide(6, |score| &score.method),
    );
    let mut text = format!(
        "quantised linear layers\n{:model$}  {:method$}  {:>11}  {:>10}  {:>10}  {:>9}  {:>9}  {:>8}\n",
        "model", "method", "bits/weight", "bytes", "nll before", "nll after", "kl/token", "seconds"
    );
    for score in scores {
        let bytes = HumanBytes(score.bytes).to_string();
        let after = &score.difference;
        text += &format!(
            "{:model$}  {:method$}  {:>11.2}  {bytes:>10}  {:>10.4}  {:>9.4}  {:>9.4}  {:>8.1}\n",
            score.model,
            score.method,
            score.bits_per_weight,
            after.nll_first,
            after.nll_second,
            after.mean_kl,
            score.seconds
        );
    }
    text
}

//! `distill eval mmlu` and its kin: questions with choices.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use datasets::config::DataConfig;
use evals::multiple_choice::{Asked, ChoiceConfig, ChoiceScores, ChoiceTask};
use serde::Serialize;
use serde_json::json;

use super::subject::open_subject;
use super::{asking, bar, name_of, open_records, print, shots_data};
use crate::cli::{EvalArgs, ModelArgs};
use crate::report::scores::{remarks, share_and_error};

#[derive(Serialize)]
struct Report {
    task: &'static str,
    model: String,
    data: String,
    shots: usize,
    #[serde(flatten)]
    scores: ChoiceScores,
}

pub fn run(
    arguments: &EvalArgs,
    task: ChoiceTask,
    model: &ModelArgs,
    data: &Path,
) -> anyhow::Result<()> {
    let settings = ChoiceConfig {
        shots: arguments.shots.unwrap_or(0),
        limit: arguments.limit,
        seed: arguments.seed,
    };
    let questions = task
        .questions(&DataConfig::new(data.to_path_buf()))?
        .questions;
    let shots_data = shots_data(arguments, data)?;
    let examples = match &shots_data {
        Some(path) => task.questions(&DataConfig::new(path.clone()))?.questions,
        None => Vec::new(),
    };
    let asked = Asked::new(task, questions, &examples, &settings)?;
    let mut files = vec![data.to_path_buf()];
    files.extend(shots_data);
    let described = json!({ "task": task, "settings": settings });
    let records = open_records(arguments, model, &described, &files)?;
    let subject = open_subject(model, arguments.tokenizer.as_ref())?;
    let bar = bar("questions")?;
    bar.set_length(asked.len() as u64);
    let scores = asked.score(&subject, records, &mut |done| {
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    let Some(scores) = scores.with_context(|| asking(task.name(), model))? else {
        return Ok(());
    };
    let report = Report {
        task: task.name(),
        model: name_of(model)?,
        data: data.display().to_string(),
        shots: settings.shots,
        scores,
    };
    print(arguments.json, &report, write_table)
}

fn write_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Report { scores, .. } = report;
    let [share, error] = share_and_error(&scores.accuracy);
    let asked = scores.accuracy.questions;
    writeln!(
        out,
        "{}: {asked} questions, {} shots",
        report.task, report.shots
    )?;
    writeln!(out, "accuracy       {share:>8} ± {error}")?;
    if let Some(normalised) = &scores.normalised {
        let [share, error] = share_and_error(normalised);
        writeln!(out, "a character    {share:>8} ± {error}")?;
    }
    let rows = scores.categories.iter().chain(&scores.subjects);
    let wide = rows
        .clone()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (at, (name, accuracy)) in rows.enumerate() {
        if at == 0 || at == scores.categories.len() {
            writeln!(out)?;
        }
        let [share, error] = share_and_error(accuracy);
        writeln!(
            out,
            "{name:wide$}  {:>6}  {share:>8} ± {error}",
            accuracy.questions
        )?;
    }
    write!(out, "{}", remarks(&report.model, scores))
}

//! `distill eval gsm8k` and `math`: answers that a model writes.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use datasets::config::DataConfig;
use evals::written_answers::{AnswerConfig, AnswerScores, AnswerTask, AskedProblems, Verdicts};
use serde::Serialize;
use serde_json::json;

use super::subject::open_subject;
use super::{bar, name_of, open_records, print, shots_data};
use crate::cli::{EvalArgs, ModelArgs};
use crate::exit::WrongFlags;
use crate::report::scores::{share_and_error, unfinished};

#[derive(Serialize)]
struct Report {
    task: &'static str,
    model: String,
    data: String,
    shots: usize,
    #[serde(flatten)]
    scores: AnswerScores,
}

pub fn run(arguments: &EvalArgs, task: AnswerTask, model: &ModelArgs, data: &Path) -> Result<()> {
    let usual = AnswerConfig::default();
    let config = AnswerConfig {
        shots: arguments.shots,
        limit: arguments.limit,
        max_tokens: arguments.max_tokens.unwrap_or(usual.max_tokens),
    };
    if let Some((key, says)) = config.check().into_iter().next() {
        return Err(WrongFlags(format!("--{key}: {says}")).into());
    }
    let problems = task.problems(&DataConfig::new(data.to_path_buf()))?;
    let shots_data = shots_data(arguments, data)?;
    let examples = match &shots_data {
        Some(path) => task.problems(&DataConfig::new(path.clone()))?,
        None => Vec::new(),
    };
    let seed = arguments.seed;
    let asked = AskedProblems::new(task, problems, &examples, &config, seed)?;
    let mut files = vec![data.to_path_buf()];
    files.extend(shots_data);
    let settings = json!({ "task": task, "settings": config, "seed": seed });
    let records = open_records(arguments, model, &settings, &files)?;
    let subject = open_subject(model, None)?;
    let bar = bar("questions")?;
    bar.set_length(asked.len() as u64);
    let scores = asked.score(&subject, records, &mut |done| {
        bar.set_position(done as u64);
        true
    })?;
    bar.finish_and_clear();
    let Some(scores) = scores else {
        return Ok(());
    };
    let report = Report {
        task: task.name(),
        model: name_of(model)?,
        data: data.display().to_string(),
        shots: config.shots(task),
        scores,
    };
    print(arguments.json, &report, write_table)
}

fn write_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Report { scores, .. } = report;
    let Verdicts { strict, flexible } = &scores.all;
    writeln!(
        out,
        "{}: {} questions, {} shots",
        report.task, strict.questions, report.shots
    )?;
    for (name, accuracy) in [("strict", strict), ("flexible", flexible)] {
        let [share, error] = share_and_error(accuracy);
        writeln!(out, "{name:<13}  {share:>8} ± {error}")?;
    }
    let rows = scores.subjects.iter().chain(&scores.levels);
    let names = rows.clone().map(|(name, _)| name.chars().count());
    let wide = names.max().unwrap_or(0);
    for (at, (name, Verdicts { strict, flexible })) in rows.enumerate() {
        if at == 0 || at == scores.subjects.len() {
            writeln!(out)?;
        }
        let ([one, _], [other, error]) = (share_and_error(strict), share_and_error(flexible));
        let asked = flexible.questions;
        writeln!(
            out,
            "{name:wide$}  {asked:>6}  strict {one:>8}  flexible {other:>8} ± {error}"
        )?;
    }
    write!(out, "{}", unfinished(&report.model, scores))
}

//! `distill eval`: one model, one task; or two models by what they answered.

mod choices;
mod compare;
mod human_eval;
mod perplexity;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use evals::multiple_choice::ChoiceTask;
use evals::sample_records::SampleRecords;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cli::{EvalArgs, ModelArgs, ProgramArgs};
use crate::recipe::Task;
use crate::source::{Cache, Sha256, digest_of_path};

pub fn run(arguments: EvalArgs) -> anyhow::Result<()> {
    if let [a, b] = arguments.compare.as_slice() {
        return compare::run(a, b, arguments.json);
    }
    let (Some(task), Some(model)) = (arguments.task, arguments.model()) else {
        // The command line asks for both where nothing is compared.
        anyhow::bail!("`distill eval` needs a task and --model");
    };
    let of_perplexity = arguments.window.is_some() || arguments.stride.is_some();
    ensure!(
        task == Task::Perplexity || !of_perplexity,
        "`--window` and `--stride` belong to the task perplexity"
    );
    ensure!(
        task == Task::HumanEval || arguments.programs == ProgramArgs::default(),
        "the options of human_eval belong to that task alone"
    );
    ensure!(
        arguments.shots.is_none() || task.choices().is_some_and(ChoiceTask::has_subjects),
        "`--shots` belongs to the tasks mmlu and kmmlu"
    );
    ensure!(
        task != Task::Perplexity || arguments.records.is_none(),
        "`--records` belongs to questions and programs; perplexity has none"
    );
    if task == Task::HumanEval {
        return human_eval::run(&arguments, &model);
    }
    let data = arguments.data.as_ref().context("`--data` is missing")?;
    let data = data.resolve(&Cache::from_env()?).context("--data")?;
    match task.choices() {
        None => perplexity::run(&arguments, &model, &data),
        Some(task) => choices::run(&arguments, task, &model, &data),
    }
}

/// Shown on stderr, and only where somebody watches.
fn bar(what: &str) -> anyhow::Result<ProgressBar> {
    let template = format!("{{wide_bar}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left");
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(&template)?))
}

/// The records of an evaluation: what an interrupted one of the same model, settings and data has left is known already.
fn open_records<R: Serialize + DeserializeOwned + Clone>(
    arguments: &EvalArgs,
    model: &ModelArgs,
    settings: &Value,
    data: &[PathBuf],
) -> anyhow::Result<SampleRecords<R>> {
    let Some(path) = &arguments.records else {
        return Ok(SampleRecords::unkept());
    };
    ensure!(
        !path.exists(),
        "{} exists already\nhint: name another file, or remove this one",
        path.display()
    );
    let cache = Cache::from_env()?;
    let mut files = vec![model.stored()?.resolve(&cache)?];
    files.extend(model.adapter.iter().chain(data).cloned());
    let digests: Result<Vec<String>, _> = (files.iter())
        .map(|file| digest_of_path(file, &cache).map(|digest| digest.to_string()))
        .collect();
    let all = json!({ "settings": settings, "files": digests? });
    let digest = Sha256::of(all.to_string().as_bytes()).to_string();
    Ok(SampleRecords::open(path, &digest)?)
}

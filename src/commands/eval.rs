//! `distill eval`: one model, one task.

mod human_eval;

use std::io::Write;

use anyhow::Context;
use datasets::config::DataConfig;
use datasets::read::read_samples;
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use indicatif::{ProgressBar, ProgressStyle};
use model::load::load_frozen_decoder;
use serde::Serialize;
use teacher::tokenizer::load_tokenizer;

use super::open_model::open_model;
use crate::cli::{EvalArgs, EvalTask, ProgramArgs};
use crate::device::place;

#[derive(Serialize)]
struct Report {
    task: &'static str,
    model: String,
    data: String,
    window: usize,
    stride: usize,
    #[serde(flatten)]
    result: Perplexity,
}

pub fn run(arguments: EvalArgs) -> anyhow::Result<()> {
    match arguments.task {
        EvalTask::Perplexity => run_perplexity(&arguments),
        EvalTask::HumanEval => human_eval::run(&arguments),
    }
}

fn run_perplexity(arguments: &EvalArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.programs == ProgramArgs::default(),
        "`perplexity` takes none of the options of human_eval"
    );
    let data = arguments.data.as_deref().context("`--data` is missing")?;
    let config = PerplexityConfig {
        window: arguments.window,
        stride: arguments.stride,
        limit: arguments.limit,
    };
    let samples = read_samples(&DataConfig::new(data.to_path_buf()))?.samples;
    let placement = place(arguments.model.device.device)?;
    let checkpoint = open_model(&arguments.model)?;
    let (window, stride) = config.window_and_stride(checkpoint.config().max_position_embeddings)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let documents = documents(&tokenizer, &samples)?;
    let decoder = load_frozen_decoder(&checkpoint, &placement)?;
    let bar = ProgressBar::new(0)
        .with_style(style()?)
        .with_message("tokens");
    let result = perplexity(
        &decoder,
        &tokenizer,
        &documents,
        &config,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        },
    )?;
    bar.finish_and_clear();
    let report = Report {
        task: "perplexity",
        model: arguments.model.stored()?.to_string(),
        data: data.display().to_string(),
        window,
        stride,
        result,
    };
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write_table(&mut out, &report)?,
    }
    Ok(())
}

/// Shown on stderr, and only where somebody watches.
fn style() -> anyhow::Result<ProgressStyle> {
    Ok(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} {msg}, {per_sec}, {eta} left",
    )?)
}

fn write_table(out: &mut impl Write, report: &Report) -> std::io::Result<()> {
    let Report { result, .. } = report;
    writeln!(out, "perplexity     {:.4}", result.perplexity)?;
    writeln!(
        out,
        "NLL per token  {:.5} ± {:.5} nats",
        result.nll, result.standard_error
    )?;
    writeln!(out, "bits per byte  {:.5}", result.bits_per_byte)?;
    writeln!(
        out,
        "scored         {} tokens, {} bytes (window {}, stride {})",
        result.tokens, result.bytes, report.window, report.stride
    )
}

//! `distill eval perplexity`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use datasets::config::DataConfig;
use datasets::read::read_samples;
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use serde::Serialize;

use super::subject::open_subject;
use super::{asking, bar, name_of, print};
use crate::cli::{EvalArgs, ModelArgs};

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

pub fn run(arguments: &EvalArgs, model: &ModelArgs, data: &Path) -> anyhow::Result<()> {
    let config = PerplexityConfig {
        window: arguments.window,
        stride: arguments.stride,
        limit: arguments.limit,
    };
    let samples = read_samples(&DataConfig::new(data.to_path_buf()))?.samples;
    let subject = open_subject(model, arguments.tokenizer.as_ref())?;
    let reading = subject.reading()?;
    let (window, stride) = config.window_and_stride(reading.context)?;
    let documents = documents(reading.tokenizer, &samples)?;
    let bar = bar("tokens")?;
    let result = perplexity(&subject, &documents, &config, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        true
    });
    bar.finish_and_clear();
    let Some(result) = result.with_context(|| asking("perplexity", model))? else {
        return Ok(());
    };
    let report = Report {
        task: "perplexity",
        model: name_of(model)?,
        data: data.display().to_string(),
        window,
        stride,
        result,
    };
    print(arguments.json, &report, write_table)
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

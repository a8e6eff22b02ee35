//! `distill eval perplexity`.

use std::io::Write;
use std::path::Path;

use datasets::config::DataConfig;
use datasets::read::read_samples;
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use model::load::load_frozen_decoder;
use serde::Serialize;
use teacher::tokenizer::load_tokenizer;

use super::{bar, print};
use crate::cli::{EvalArgs, ModelArgs};
use crate::commands::open_model::open_model;
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

pub fn run(arguments: &EvalArgs, model: &ModelArgs, data: &Path) -> anyhow::Result<()> {
    let config = PerplexityConfig {
        window: arguments.window,
        stride: arguments.stride,
        limit: arguments.limit,
    };
    let samples = read_samples(&DataConfig::new(data.to_path_buf()))?.samples;
    let placement = place(model.device.device)?;
    let checkpoint = open_model(model)?;
    let (window, stride) = config.window_and_stride(checkpoint.config().max_position_embeddings)?;
    let tokenizer = load_tokenizer(&checkpoint)?;
    let documents = documents(&tokenizer, &samples)?;
    let decoder = load_frozen_decoder(&checkpoint, &placement)?;
    let bar = bar("tokens")?;
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
        model: model.stored()?.to_string(),
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

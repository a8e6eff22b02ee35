//! Whether what was written is the model: both run on the same text, and their logits are compared.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use datasets::sample::Sample;
use datasets::tokenizer::Tokenizer;
use evals::logit_comparison::{LogitComparison, LogitDifference, all_logits};
use evals::perplexity::documents;
use model::build::Placement;
use model::decoder::Decoder;
use model::load::load_decoder;
use model::quant::block_type::GgmlType;
use model::weights::checkpoint::Checkpoint;
use serde::Serialize;
use teacher::tokenizer::optional_tokenizer;

use super::{ExportSource, Weights};
use crate::adapter;
use crate::recipe::{ExportFormat, FloatType};

/// Tokens that both models run on: their logits are in memory at once.
const TOKENS: usize = 512;

/// From a novel that is in the public domain.
const SAMPLE: &str = include_str!("../../recipes/data/heldout.txt");

/// What both models read.
pub enum VerifyText {
    /// A text that comes with the program.
    BuiltIn,
    Text(String),
    Samples(Vec<Sample>),
}

/// What was found, and what would have been too much.
#[derive(Debug, Serialize)]
pub struct Verification {
    #[serde(flatten)]
    pub difference: LogitDifference,
    pub max_kl: f64,
}

/// Mean KL in nats a token that an export may be away from its source: some times what SmolLM2-135M shows, whose weights
/// lie on another 4-bit grid already, and far below what a mistake in the file makes.
fn default_max_kl(format: &ExportFormat) -> f64 {
    let kind = match format {
        ExportFormat::Gguf { kind } => *kind,
        ExportFormat::Safetensors { dtype }
        | ExportFormat::Peft { dtype }
        | ExportFormat::Gptq { dtype } => match dtype {
            FloatType::F32 => GgmlType::F32,
            FloatType::F16 => GgmlType::F16,
            FloatType::Bf16 => GgmlType::Bf16,
        },
    };
    match kind {
        GgmlType::F32 => 1e-6,
        GgmlType::F16 => 1e-4,
        GgmlType::Bf16 => 0.002,
        GgmlType::Q8_0 => 0.01,
        GgmlType::Q6K => 0.05,
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5K => 0.3,
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4K => 0.8,
    }
}

/// Compares what lies at `written` with its source, and tells what was found on stderr.
///
/// # Errors
/// When the mean KL is above `max_kl` (a default by the format), when the two tokenizers encode the text differently, and
/// when `written` cannot be read.
pub fn verify(
    source: &ExportSource,
    written: &Path,
    format: &ExportFormat,
    text: &VerifyText,
    max_kl: Option<f64>,
    placement: &Placement,
) -> Result<Verification> {
    let max_kl = max_kl.unwrap_or_else(|| default_max_kl(format));
    let exported = adapter::open(written).context("what was written cannot be read")?;
    let sequences = sequences(source, &exported, text)?;

    let loaded;
    let decoder = match &source.weights {
        Weights::Stored(checkpoint) => {
            loaded = load_decoder(checkpoint, placement)?;
            &loaded
        }
        Weights::Made(decoder) => decoder,
    };
    let logits = |decoder: &Decoder| -> Vec<Vec<f32>> {
        sequences
            .iter()
            .map(|ids| all_logits(decoder, ids))
            .collect()
    };
    let first = logits(decoder);
    let second = logits(&load_decoder(&exported, placement)?);
    let mut comparison = LogitComparison::default();
    for ((ids, first), second) in sequences.iter().zip(&first).zip(&second) {
        comparison.add(ids, first, second);
    }
    let difference = comparison.report();
    eprintln!("verified  {}", described(&difference));
    // A NaN is not below any bound.
    ensure!(
        difference.mean_kl <= max_kl,
        "what was written differs from its source by a mean KL of {} nats a token, more than the {max_kl} that are \
         accepted; it is not kept\nhint: a finer type is closer, and a larger `max-kl` accepts more",
        shown(difference.mean_kl)
    );
    Ok(Verification { difference, max_kl })
}

fn described(found: &LogitDifference) -> String {
    format!(
        "{} tokens: mean KL {} nats, largest logit difference {}, NLL {:.5} (source {:.5})",
        found.tokens,
        shown(found.mean_kl),
        shown(found.largest_logit_difference),
        found.nll_second,
        found.nll_first
    )
}

fn shown(value: f64) -> String {
    match value {
        0.0 => "0".to_string(),
        small if small < 1e-3 => format!("{small:.1e}"),
        other => format!("{other:.4}"),
    }
}

/// At most [`TOKENS`] tokens, in pieces that fit the model's context. Both tokenizers must give the same.
fn sequences(
    source: &ExportSource,
    exported: &Checkpoint,
    text: &VerifyText,
) -> Result<Vec<Vec<u32>>> {
    let config = source.config();
    let own = source.own_tokenizer()?;
    let written = optional_tokenizer(exported)?;
    let sequences = match (source.tokenizer.as_ref().or(own.as_ref()), &written) {
        (Some(first), Some(second)) => {
            let (first, second) = (encode(first, text)?, encode(second, text)?);
            if let Some((a, b)) = first
                .iter()
                .flatten()
                .zip(second.iter().flatten())
                .find(|(a, b)| a != b)
            {
                bail!(
                    "the exported tokenizer encodes the text differently: token {b} where the source has {a}"
                );
            }
            ensure!(
                first == second,
                "the exported tokenizer gives another number of tokens"
            );
            first
        }
        (None, None) => {
            // Every so many rows of the embedding, in no order that a model has seen.
            let row = |i: usize| ((i * 7919 + 1) % config.vocab_size) as u32;
            vec![(0..TOKENS).map(row).collect()]
        }
        (Some(_), None) => bail!("the tokenizer is missing in what was written"),
        (None, Some(_)) => bail!("what was written has a tokenizer, the source has none"),
    };
    let mut left = TOKENS;
    let mut pieces = Vec::new();
    for ids in sequences
        .iter()
        .flat_map(|ids| ids.chunks(config.max_position_embeddings))
    {
        let ids = &ids[..ids.len().min(left)];
        left -= ids.len();
        if !ids.is_empty() {
            pieces.push(ids.to_vec());
        }
    }
    ensure!(
        !pieces.is_empty(),
        "there is nothing to verify on: the text has no tokens"
    );
    Ok(pieces)
}

fn encode(tokenizer: &Tokenizer, text: &VerifyText) -> Result<Vec<Vec<u32>>> {
    Ok(match text {
        VerifyText::BuiltIn => vec![tokenizer.encode(SAMPLE, true)?],
        VerifyText::Text(text) => vec![tokenizer.encode(text, true)?],
        VerifyText::Samples(samples) => documents(tokenizer, samples)?,
    })
}

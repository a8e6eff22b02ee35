use std::path::PathBuf;

use clap::Args;

use model::generate::sampling::SamplingConfig;
use teacher::GenerationRequest;

use super::number::{above_zero, at_least_zero, count, share, share_above_zero, tokens};
use super::{ModelArgs, parse_source};
use crate::source::ModelSource;

/// Generate text
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  distill generate --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --prompt \"Why is the sky blue?\""
)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to go on from (repeatable; all are continued together, or with --draft one after the other)
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompts",
        conflicts_with = "prompts"
    )]
    pub prompt: Vec<String>,
    /// A file with a prompt a line, each a JSON string
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    /// Put the prompt into the model's chat template; so it is done where there is one
    #[arg(long, conflicts_with = "raw")]
    pub chat: bool,
    /// Take the prompt as it is
    #[arg(long)]
    pub raw: bool,
    /// Print one JSON object a prompt at the end: text, ids, finish_reason
    #[arg(long)]
    pub json: bool,
    /// Say how long it took, how many tokens a second, how much memory, what became of drafts; with --json as a last object
    #[arg(long)]
    pub stats: bool,
}

/// How tokens are drawn, and when to stop.
#[derive(Args, Debug)]
pub struct SamplingArgs {
    /// Stop after so many tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = tokens, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = at_least_zero, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw from the K likeliest tokens
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Draw from the fewest tokens that hold this share of the probability
    #[arg(long, value_name = "P", value_parser = share_above_zero, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Draw from the tokens with at least this share of the likeliest one's probability
    #[arg(long, value_name = "P", value_parser = share, allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Divide the logits of tokens that have occurred; 1 does nothing
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = above_zero, allow_negative_numbers = true)]
    pub repetition_penalty: f64,
    /// The same seed draws the same text
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub seed: u64,
    /// Stop before this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// A model that drafts.
#[derive(Args, Debug)]
pub struct DraftArgs {
    /// A small model of the same vocabulary that drafts what --model then checks: the same tokens at temperature 0, tokens
    /// of the same distribution else, in less time where the two are near each other
    #[arg(long, value_name = "MODEL", value_parser = parse_source)]
    pub draft: Option<ModelSource>,
    /// So many tokens are drafted at a time
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = count, requires = "draft", allow_negative_numbers = true)]
    pub draft_tokens: usize,
}

impl SamplingArgs {
    pub fn request(&self) -> GenerationRequest {
        let all = SamplingConfig::default();
        GenerationRequest {
            sampling: SamplingConfig {
                temperature: self.temperature as f32,
                top_k: self.top_k.unwrap_or(all.top_k),
                top_p: self.top_p.map_or(all.top_p, |p| p as f32),
                min_p: self.min_p.map_or(all.min_p, |p| p as f32),
                repetition_penalty: self.repetition_penalty as f32,
            },
            max_new_tokens: self.max_tokens,
            stop: self.stop.clone(),
            seed: self.seed,
        }
    }
}

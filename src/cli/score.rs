use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArgs;
use super::number::{count, window};

/// Print the log-probability that a model gives to every token of a text
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  distill score --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --text \"The capital of France is\" --json --top 5"
)]
#[group(id = "input", required = true, multiple = false, args = ["text", "file", "ids"])]
pub struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text itself
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// A file that holds the text
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A file that holds token ids as one JSON array
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// Print one JSON object: ids, logprobs, nll, tokens
    #[arg(long)]
    pub json: bool,
    /// Print the K best next tokens of each position with their logits, too
    #[arg(long, value_name = "K", value_parser = count, allow_negative_numbers = true)]
    pub top: Option<usize>,
}

/// Evaluate a model
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  distill eval perplexity --model runs/quickstart/distill-0123456789ab/model \
                        --data recipes/data/heldout.txt"
)]
pub struct EvalArgs {
    #[arg(value_enum)]
    pub task: EvalTask,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The data to evaluate on: text, jsonl, csv or parquet
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Tokens that the model sees at once; its own context, 2048 at most, when left out
    #[arg(long, value_name = "TOKENS", value_parser = window, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Tokens by which the window moves; half of it when left out
    #[arg(long, value_name = "TOKENS", value_parser = count, allow_negative_numbers = true)]
    pub stride: Option<usize>,
    /// Score the first so many tokens only
    #[arg(long, value_name = "TOKENS", value_parser = count, allow_negative_numbers = true)]
    pub limit: Option<usize>,
    /// Print one JSON object: task, model, data, window, stride, tokens, bytes, nll_sum, nll, perplexity, bits_per_byte,
    /// standard_error
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalTask {
    Perplexity,
}

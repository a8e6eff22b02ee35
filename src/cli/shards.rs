use std::path::PathBuf;

use clap::Args;

/// Show what soft targets on disk hold
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  distill shards runs/capture-distill/capture-0123456789ab/targets --samples 2"
)]
pub struct ShardsArgs {
    /// The directory `targets` that a stage `capture` left
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// How many positions to decode, from the first
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        allow_negative_numbers = true
    )]
    pub samples: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

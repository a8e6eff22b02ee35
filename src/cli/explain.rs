use clap::Args;

/// Say what a key of a recipe means, what it takes and what it is when left out
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill explain\n  distill explain distill\n  distill explain stage.sft.optimizer.lr\n  \
                  distill explain temperature --json"
)]
pub struct ExplainArgs {
    /// A key with as much of its path as it takes to tell it from others (lr, sft.lr, data.chunk), or a kind of stage; the
    /// sections of a recipe when left out
    #[arg(value_name = "KEY")]
    pub key: Option<String>,
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

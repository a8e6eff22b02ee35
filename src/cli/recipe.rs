use std::path::PathBuf;

use clap::Args;

use super::DeviceArgs;
use super::size::size;

/// A recipe and what is laid over it.
#[derive(Args, Clone, Debug)]
pub struct RecipeArgs {
    /// The recipe, a TOML file
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Override a value: stage.NAME.steps=10, data.NAME.limit=50, seed=1 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Apply one of the recipe's presets
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
}

/// Run a recipe; what is already made is not made again
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  distill run recipes/quickstart.toml\n  \
                        distill run recipes/smollm2-distill.toml --preset short --set seed=1")]
pub struct RunArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The directory that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Show where the time of each training step and each evaluation goes
    ///
    /// Times every operation, with the bytes that it moves and the floating-point operations that it does. Each stage that
    /// trains or evaluates gets profile.json and trace.json in its directory; the run ends with a table of the largest items
    /// on stderr. The first two steps are left out, the trace shows steps 3 to 8 (open it at https://ui.perfetto.dev). A stage
    /// that is done is not run again for its profile: choose another --out. On a GPU every operation is waited for, which
    /// makes the run slower. Results stay the same.
    #[arg(long)]
    pub profile: bool,
    /// Refuse before the start what is planned to need more memory, as 16GiB; what is free when left out
    ///
    /// A recipe that is planned to need more is refused before it starts, with changes that would make it fit. `distill plan`
    /// shows the plan.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Start although memory or disk are planned not to suffice
    #[arg(long)]
    pub force: bool,
}

/// Check a recipe; touches neither a device nor the network
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  distill check recipes/smollm2-distill.toml --preset short")]
pub struct CheckArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
}

/// Show what the model will see: the tokens of some samples, the masked ones dimmed
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  distill inspect recipes/quickstart.toml --data train --samples 2"
)]
pub struct InspectArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Which of the recipe's data; all of it when left out
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    /// How many samples of each
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        allow_negative_numbers = true
    )]
    pub samples: usize,
}

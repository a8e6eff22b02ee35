use std::path::PathBuf;

use clap::Args;

/// Write the manual, a page a verb
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  distill man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Where the pages go; what else lies there stays
    #[arg(value_name = "DIR", default_value = "man1")]
    pub directory: PathBuf,
}

//! `distill completions`.

use std::io::Write;

use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::cli::{Cli, CompletionsArgs, Shell};

pub fn run(arguments: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let mut command = Cli::shown();
    let name = command.get_name().to_string();
    match arguments.shell {
        Shell::Bash => generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(Fish, &mut command, name, &mut script),
    }
    std::io::stdout().write_all(&script)?;
    Ok(())
}

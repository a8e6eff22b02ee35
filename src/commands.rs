//! One module a verb, each with `run(arguments)`.

mod check;

use crate::cli::Command;

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check(arguments) => check::run(arguments),
    }
}

//! One module a verb, each with `run(arguments)`.

mod chat;
mod check;
mod completions;
mod eval;
mod explain;
mod export;
mod generate;
mod inspect;
mod man;
mod open_model;
mod plan;
mod remote;
mod report;
mod run;
mod schema;
mod score;
mod shards;

use anyhow::Context;

use crate::cli::Command;
use crate::profile::Profiler;

pub fn run(command: Command, profiler: Option<Profiler>) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::run(arguments, profiler),
        Command::Check(arguments) => check::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Score(arguments) => score::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Report(arguments) => report::run(arguments),
        Command::Shards(arguments) => shards::run(arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(arguments),
        Command::SandboxChild => evals::sandbox::serve()
            .context("`sandbox-child` is started by distill itself and takes no orders of others"),
    }
}

//! `distill`: the command line of Distillery.

mod adapter;
mod cli;
mod commands;
mod device;
mod exit;
mod export;
mod memory;
mod plan;
mod progress;
mod recipe;
mod report;
mod source;
mod stages;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    memory::keep_freed_memory();
    exit::install_panic_hook();
    let cli = cli::Cli::parse();
    start_logging();
    exit::report(commands::run(cli.command))
}

/// Words go to stderr: warnings and progress, or what `DISTILL_LOG` asks for.
fn start_logging() {
    let filter = (EnvFilter::builder()
        .with_env_var("DISTILL_LOG")
        .try_from_env())
    .unwrap_or_else(|_| EnvFilter::new("warn,distill=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}

//! `distill`: the command line of Distillery.

mod cli;
mod commands;
mod device;
mod exit;
mod export;
mod memory;
mod plan;
mod profile;
mod progress;
mod recipe;
mod report;
mod source;
mod stages;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use profile::Profiler;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

fn main() -> ExitCode {
    memory::keep_freed_memory();
    exit::install_panic_hook();
    let cli = cli::Cli::parse();
    let profiler = cli.command.profiler();
    start_logging(profiler.clone());
    exit::report(commands::run(cli.command, profiler))
}

/// Words go to stderr: warnings and progress, or what `DISTILL_LOG` asks for. A profiler hears the rest.
fn start_logging(profiler: Option<Profiler>) {
    let filter = (EnvFilter::builder()
        .with_env_var("DISTILL_LOG")
        .try_from_env())
    .unwrap_or_else(|_| EnvFilter::new("warn,distill=info"));
    let words = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .with_filter(filter);
    tracing_subscriber::registry()
        .with(words)
        .with(profiler.map(Profiler::layer))
        .init();
}

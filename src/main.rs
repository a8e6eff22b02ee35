//! `distill`: the command line of Distillery.

mod adapter;
mod cli;
mod commands;
mod counted;
mod device;
mod estimate;
mod exit;
mod export;
mod json_file;
mod masked_runs;
mod memory;
mod plan;
mod profile;
mod progress;
mod recipe;
mod report;
mod run_record;
mod sandbox;
mod schema;
mod source;
mod stages;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use profile::Profiler;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

const DEFAULT_WORDS: &str = "warn,distill=info";

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

fn main() -> ExitCode {
    memory::keep_freed_memory();
    exit::install_panic_hook();
    let cli = cli::Cli::parse();
    let profiler = cli.command.profiler();
    logging(words_wanted(), profiler.clone()).init();
    exit::report(commands::run(cli.command, profiler))
}

/// Warnings and progress, or what `DISTILL_LOG` asks for.
fn words_wanted() -> EnvFilter {
    (EnvFilter::builder()
        .with_env_var("DISTILL_LOG")
        .try_from_env())
    .unwrap_or_else(|_| EnvFilter::new(DEFAULT_WORDS))
}

/// Words go to stderr; spans to the profiler if there is one.
fn logging(words: EnvFilter, profiler: Option<Profiler>) -> impl Subscriber {
    let words = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .with_filter(words);
    tracing_subscriber::registry()
        .with(words)
        .with(profiler.map(Profiler::layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::level_filters::LevelFilter;

    /// Below this level a span is one comparison.
    #[test]
    fn spans_are_off_unless_a_profiler_hears_them() {
        let level = |profiler| logging(EnvFilter::new(DEFAULT_WORDS), profiler).max_level_hint();
        assert_eq!(level(None), Some(LevelFilter::INFO));
        assert_eq!(level(Some(Profiler::default())), Some(LevelFilter::TRACE));
    }
}

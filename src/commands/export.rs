//! `distill export`: a model in a format that other programs read.

use std::io::Write;

use super::open_model::open_model;
use crate::adapter;
use crate::cli::ExportArgs;
use crate::export::write_safetensors;
use crate::recipe::ExportFormat;

pub fn run(arguments: ExportArgs) -> anyhow::Result<()> {
    let checkpoint = open_model(&arguments.model)?;
    match arguments.to {
        ExportFormat::Safetensors => {
            write_safetensors(&checkpoint, &arguments.out, arguments.dtype)?;
        }
        ExportFormat::Peft => {
            adapter::export(&checkpoint, &arguments.out, arguments.dtype.into())?;
        }
    }
    writeln!(std::io::stdout(), "{}", arguments.out.display())?;
    Ok(())
}

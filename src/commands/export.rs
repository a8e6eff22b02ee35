//! `distill export`: a model in a format that other programs read.

use std::io::Write;

use super::open_model::open;
use crate::cli::ExportArgs;
use crate::export::write_safetensors;
use crate::recipe::ExportFormat;

pub fn run(arguments: ExportArgs) -> anyhow::Result<()> {
    let checkpoint = open(&arguments.model.model)?;
    match arguments.to {
        ExportFormat::Safetensors => {
            write_safetensors(&checkpoint, &arguments.out, arguments.dtype)?;
        }
    }
    writeln!(std::io::stdout(), "{}", arguments.out.display())?;
    Ok(())
}

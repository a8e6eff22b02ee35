//! `distill export`: a model in a format that other programs read.

use std::fs;
use std::io::Write;

use anyhow::Context;

use super::open_model::open_model;
use crate::cli::ExportArgs;
use crate::device::place;
use crate::export::{ExportSource, VerifyText, Weights, verify};

pub fn run(arguments: ExportArgs) -> anyhow::Result<()> {
    let format = arguments.format().unwrap_or_else(|error| error.exit());
    // A mistake in the input shows before anything large is read or written.
    let text = match &arguments.verify {
        None => None,
        Some(None) => Some(VerifyText::BuiltIn),
        Some(Some(path)) => {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            Some(VerifyText::Text(text))
        }
    };
    let placement = text.is_some().then(|| place(arguments.model.device.device));
    let placement = placement.transpose()?;
    let source = ExportSource {
        weights: Weights::Stored(Box::new(open_model(&arguments.model)?)),
        tokenizer: None,
    };
    let name = arguments.out.file_stem().unwrap_or_default();
    let written = source.write(&name.to_string_lossy(), &format, &arguments.out)?;
    if let (Some(text), Some(placement)) = (text, placement) {
        verify(
            &source,
            written.path(),
            &format,
            &text,
            arguments.max_kl,
            &placement,
        )
        .with_context(|| arguments.out.display().to_string())?;
    }
    written.commit()?;
    writeln!(std::io::stdout(), "{}", arguments.out.display())?;
    Ok(())
}

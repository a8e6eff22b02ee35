//! `distill man`: pages of the manual, from the definitions of the command line.

use std::path::Path;

use anyhow::Context;
use clap_mangen::generate_to;

use crate::cli::{Cli, ManArgs};

pub fn run(arguments: ManArgs) -> anyhow::Result<()> {
    let ManArgs { directory } = arguments;
    let written =
        write(&directory).with_context(|| format!("cannot write in {}", directory.display()))?;
    eprintln!("{written} pages in {}", directory.display());
    Ok(())
}

/// Each page appears whole, in place of an older one.
fn write(directory: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(directory)?;
    let begun = tempfile::tempdir_in(directory)?;
    generate_to(Cli::shown().disable_help_subcommand(true), begun.path())?;
    let mut written = 0;
    for page in std::fs::read_dir(begun.path())? {
        let page = page?;
        std::fs::File::open(page.path())?.sync_all()?;
        std::fs::rename(page.path(), directory.join(page.file_name()))?;
        written += 1;
    }
    Ok(written)
}

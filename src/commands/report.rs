//! `distill report`: what is known of a run, as one HTML file.

use std::io::Write;

use crate::cli::ReportArgs;
use crate::report::write_report;

pub fn run(arguments: ReportArgs) -> anyhow::Result<()> {
    let ReportArgs { run, other, out } = arguments;
    let path = write_report(&run, other.as_deref(), out.as_deref())?;
    writeln!(std::io::stdout(), "{}", path.display())?;
    Ok(())
}

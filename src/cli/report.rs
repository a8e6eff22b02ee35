use std::path::PathBuf;

use clap::Args;

/// Write the report of a run, or of two side by side, as one HTML file
///
/// Curves, scores, samples, counts, time, memory and money, lineage and the recipe as it was run. The file loads nothing from
/// elsewhere. `distill run` writes it at its end; of a run that was stopped or has failed it says what is missing.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill report runs/quickstart\n  distill report runs/quickstart other/quickstart -o both.html"
)]
pub struct ReportArgs {
    /// The directory of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// That of another, to be shown beside it
    #[arg(value_name = "OTHER")]
    pub other: Option<PathBuf>,
    /// Where to write; RUN/report.html when left out, RUN/report-against-OTHER.html of two
    #[arg(short = 'o', long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

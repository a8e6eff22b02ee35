//! `report.html`: one file that tells all of a run, or of two side by side. Sections are data; the template knows tables,
//! charts and texts, and nothing of training.

mod chart;
mod curve;
mod data;
mod difference;
mod evaluation;
mod expected;
mod origin;
mod page;
mod planned;
mod resources;
mod run_files;
mod samples;
mod stage_files;
mod training;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use minijinja::{AutoEscape, Environment};

use crate::stages::write_whole;
use page::{Limits, Page};
use run_files::RunFiles;

/// In the run's directory.
pub const REPORT: &str = "report.html";
/// A browser opens it at once, and a mail takes it.
const MOST_BYTES: usize = 2_000_000;
const TEMPLATE: &str = include_str!("html/report.html.jinja");

/// Writes the report of a run, beside another's if there is one, to `out`, or into the run's directory.
///
/// # Errors
/// A directory that holds no run, and what the disk refuses.
pub fn write_report(run: &Path, other: Option<&Path>, out: Option<&Path>) -> Result<PathBuf> {
    let mut runs = vec![RunFiles::read(run)?];
    if let Some(other) = other {
        runs.push(RunFiles::read(other)?);
        run_files::tell_apart(&mut runs);
    }
    runs.iter().for_each(RunFiles::warn);
    let path = match (out, other) {
        (Some(out), _) => out.to_path_buf(),
        (None, None) => run.join(REPORT),
        (None, Some(_)) => run.join(format!("report-against-{}.html", runs[1].file_name())),
    };
    let text = render(&runs)?;
    // A device or a pipe is written to; renaming would put a file in its place.
    let is_special = fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    let written = match is_special {
        true => fs::write(&path, &text),
        false => write_whole(&path, text.as_bytes()),
    };
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The page, with as much of long things as fits.
fn render(runs: &[RunFiles]) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_template(REPORT, TEMPLATE)?;
    let template = environment.get_template(REPORT)?;
    for limits in Limits::falling() {
        let text = template.render(page(runs, &limits))?;
        if text.len() <= MOST_BYTES {
            return Ok(text);
        }
    }
    bail!("this run has too much for a report of {MOST_BYTES} bytes")
}

fn page(runs: &[RunFiles], limits: &Limits) -> Page {
    let titles: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
    let sections = [
        evaluation::section(runs, limits),
        training::section(runs, limits),
        data::section(runs, limits),
        samples::section(runs, limits),
        resources::section(runs, limits),
        planned::section(runs, limits),
        resources::ledger(runs, limits),
        origin::lineage(runs, limits),
        origin::recipe(runs, limits),
        origin::versions(runs, limits),
    ];
    Page {
        title: titles.join(" and "),
        facts: runs.iter().map(origin::facts).collect(),
        notices: runs.iter().flat_map(|run| run.notices(limits)).collect(),
        sections: (sections.into_iter())
            .filter(|section| !section.parts.is_empty())
            .collect(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

#[cfg(test)]
mod tests;

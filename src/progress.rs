//! What a run shows while it works: bars on a terminal, plain lines elsewhere. All of it on stderr.

mod asking;
mod data;
mod resident;
mod training;

use std::time::Duration;

use datasets::selection::Counts;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::decoder::Decoder;
use model::parameter::Parameter;
use model::weights::gguf_types::PlannedTensor;

use crate::counted::counted;
use crate::export::other_types;
use crate::plan::PlannedStage;

pub use asking::Asking;
pub use resident::{begin_peak, peak_resident_bytes, peak_since_begin, resident_bytes};

/// Between two plain lines of training progress.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The stages of a run.
pub struct Progress {
    total: usize,
    profiles: Vec<String>,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            profiles: Vec::new(),
        }
    }

    pub fn stage(&mut self, stage: &PlannedStage) {
        eprintln!("{}", self.line(stage));
    }

    pub fn skipped(&mut self, stage: &PlannedStage) {
        eprintln!("{}: done before", self.line(stage));
    }

    fn line(&self, stage: &PlannedStage) -> String {
        let name = stage
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!(" → {name}"));
        let (number, kind) = (stage.index + 1, stage.action.kind());
        format!("[{number}/{}] {kind}{name}", self.total)
    }

    /// How much of a model its adapter is.
    pub fn adapter(&mut self, decoder: &Decoder) {
        let trained = decoder.parameters().filter(|parameter| parameter.trainable);
        let trained: usize = trained.map(Parameter::elements).sum();
        let all: usize = decoder.arrays().map(|array| array.elements()).sum();
        let layers = decoder
            .linears()
            .filter(|linear| linear.adapter().is_some());
        eprintln!(
            "      adapter: {} parameters on {} layers of a model of {}",
            HumanCount(trained as u64),
            layers.count(),
            HumanCount(all as u64)
        );
    }

    /// Where the log-probabilities of the reference model come from.
    pub fn reference(pairs: usize, is_known: bool) {
        let pairs = counted(pairs as u64, "pairs");
        match is_known {
            true => eprintln!("      reference: {pairs}, computed before"),
            false => eprintln!("      reference: computing {pairs}"),
        }
    }

    /// From which step on weights are rounded.
    pub fn rounding(&mut self, step: u64, total: u64) {
        eprintln!("      weights are rounded from step {step} of {total} on");
    }

    /// The tensors that a GGUF file holds in another type than was asked for.
    pub fn other_types(tensors: &[PlannedTensor]) {
        (other_types(tensors).iter()).for_each(|line| eprintln!("      {line}"));
    }

    /// Keeps the profile of a stage for the end of the run.
    pub fn profile(&mut self, table: Option<String>) {
        self.profiles.extend(table);
    }

    /// The profiles so far, at the end of a run that has `finished` or not.
    pub fn show_profiles(&self, finished: bool) {
        for table in &self.profiles {
            eprint!("\n{table}");
        }
        if finished && self.profiles.is_empty() {
            eprintln!(
                "nothing to profile: no stage has trained or evaluated\nhint: stages that are done run again with another --out"
            );
        }
    }

    /// What a stage that sifts has left.
    pub fn sifted(counts: &Counts) {
        let (kept, all) = (counts.kept, counted(counts.records, "records"));
        eprintln!("      data: {kept} of {all} kept");
    }

    pub fn quantizing(&mut self, what: &str, blocks: usize) -> ProgressBar {
        let bar = bar("      {bar:24} {msg}: {pos}/{len}, {eta} left");
        bar.set_length(blocks as u64);
        bar.set_message(what.to_string());
        bar
    }

    pub fn embedding(&mut self, records: usize) -> ProgressBar {
        let bar = bar("      {bar:24} embeddings: {pos}/{len} records, {eta} left");
        bar.set_length(records as u64);
        bar
    }

    pub fn scoring(&mut self, model: &str, what: &str) -> ProgressBar {
        let bar = bar(&format!(
            "      {{bar:24}} {{msg}}: {{pos}}/{{len}} {what}, {{eta}} left"
        ));
        bar.set_message(model.to_string());
        bar
    }
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// What fits into a line of a longer text.
fn beginning(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

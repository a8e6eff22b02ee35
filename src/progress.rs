//! What a run shows while it works: bars on a terminal, plain lines elsewhere. All of it on stderr.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datasets::loader::BatchLoader;
use datasets::selection::Counts;
use indicatif::{
    FormattedDuration, HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle,
};
use model::decoder::Decoder;
use model::parameter::Parameter;
use model::weights::gguf_types::PlannedTensor;
use teacher::remote::account::Spending;
use teacher::synth::in_order::Outcome;
use trainer::heldout::{Heldout, HeldoutPairs};
use trainer::on_policy::samples::{Finish, OnPolicyRecord, WrittenSample};
use trainer::run::Observer;
use trainer::step::StepReport;

use crate::counted::counted;
use crate::export::other_types;
use crate::plan::PlannedStage;

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

    /// What became of the samples on their way into batches.
    pub fn data(&mut self, data: &BatchLoader) {
        let report = data.report();
        let pairs = data.holds_pairs();
        let samples = match pairs {
            true => counted(report.samples / 2, "pairs"),
            false => counted(report.samples, "samples"),
        };
        let mut line = format!(
            "      data: {samples}, {}, {} of {}, {} an epoch",
            counted(report.tokens, "tokens"),
            counted(report.rows, "rows"),
            data.config().sequence_length,
            counted(data.batches_per_epoch(), "batches"),
        );
        let caches = || data.corpus().caches().iter();
        let of_pairs = [
            (report.truncated_samples, "answers", "truncated"),
            (
                report.dropped_samples / 2,
                "pairs",
                "dropped (no room for both answers within the sequence length)",
            ),
            (
                caches().map(|cache| cache.left_out().equal).sum::<u64>()
                    + report.equal_samples / 2,
                "pairs",
                "dropped (equal answers)",
            ),
            (
                caches()
                    .map(|cache| cache.left_out().empty + cache.without_targets() / 2)
                    .sum(),
                "pairs",
                "dropped (an empty prompt or answer)",
            ),
        ];
        let of_samples = [
            (report.truncated_samples, "samples", "truncated"),
            (
                report.dropped_samples,
                "samples",
                "dropped (no target within the sequence length)",
            ),
            (report.dropped_rows, "rows", "dropped (no target in them)"),
        ];
        let counts: &[(u64, &str, &str)] = if pairs { &of_pairs } else { &of_samples };
        for &(count, things, what) in counts {
            if count > 0 {
                line += &format!("; {} {what}", counted(count, things));
            }
        }
        eprintln!("{line}");
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

    pub fn training(&mut self, names: Vec<&'static str>) -> TrainingProgress {
        TrainingProgress {
            bar: bar("      {bar:24} step {pos}/{len}  {msg}"),
            names,
            recent: Vec::new(),
            line_at: Instant::now(),
            heldout: None,
            written: Written::default(),
        }
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

    /// Of so many seeds, and what they are called.
    pub fn asking(&mut self, count: usize, seeds: &'static str) -> Asking {
        let bar = bar("      {bar:24} {pos}/{len} {msg}, {eta} left").with_message(seeds);
        bar.set_length(count as u64);
        Asking {
            bar,
            seeds,
            line_at: Instant::now(),
        }
    }

    /// What became of the prompts of a stage. `(records, seeds)`: what they are called.
    pub fn asked(outcome: &Outcome, (records, seeds): (&str, &str)) {
        let mut line = format!(
            "      data: {} of {}",
            counted(outcome.records, records),
            counted(outcome.seeds, seeds)
        );
        if outcome.cut > 0 {
            let are = if outcome.cut == 1 { "is" } else { "are" };
            line += &format!("; {} {are} cut at `max_tokens`", outcome.cut);
        }
        for (dropped, count) in &outcome.dropped {
            line += &format!("; {count} dropped {}", dropped.describe());
            if let Some(said) = outcome.said.get(dropped) {
                line += &format!(" ({})", beginning(said));
            }
        }
        eprintln!("{line}");
    }

    /// What a stage that sifts has left.
    pub fn sifted(counts: &Counts) {
        let (kept, all) = (counts.kept, counted(counts.records, "records"));
        eprintln!("      data: {kept} of {all} kept");
    }

    /// What the requests of a stage have cost.
    pub fn ledger(spent: &Spending, stored: u64, is_priced: bool) {
        let money = match is_priced {
            true => format!(", ${:.4}", spent.dollars),
            false => String::new(),
        };
        let stored = counted(stored, "answers");
        let mut line = match spent.requests {
            0 => format!("      ledger: {stored} from the store, no requests"),
            requests => format!(
                "      ledger: {stored} from the store; {} in all runs, {} of them retries: {} read, {} written{money}",
                counted(requests, "requests"),
                spent.retries,
                counted(spent.input_tokens, "tokens"),
                spent.output_tokens
            ),
        };
        if spent.possibly_tokens > 0 {
            let money = match is_priced {
                true => format!(" and ${:.4}", spent.possibly_dollars),
                false => String::new(),
            };
            line += &format!(
                "; at most {} tokens{money} more for requests whose answer never came",
                spent.possibly_tokens
            );
        }
        eprintln!("{line}");
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

/// Seeds of one stage.
pub struct Asking {
    bar: ProgressBar,
    seeds: &'static str,
    line_at: Instant,
}

impl Asking {
    pub fn done(&mut self, count: usize) {
        self.bar.set_position(count as u64);
        let due = self.line_at.elapsed() >= LINE_EVERY;
        if self.bar.is_hidden() && due {
            self.line_at = Instant::now();
            let all = self.bar.length().unwrap_or_default();
            eprintln!("      {count}/{all} {}", self.seeds);
        }
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Steps of one training stage.
pub struct TrainingProgress {
    bar: ProgressBar,
    names: Vec<&'static str>,
    /// Seconds and tokens of the last steps.
    recent: Vec<(f64, usize)>,
    line_at: Instant,
    heldout: Option<f64>,
    written: Written,
}

/// What the student has written in this run.
#[derive(Default)]
struct Written {
    sequences: usize,
    ended: usize,
    tokens: usize,
    seconds: f64,
    last: Option<WrittenSample>,
}

impl TrainingProgress {
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let Written {
            sequences,
            ended,
            tokens,
            seconds,
            last: Some(last),
        } = &self.written
        else {
            return;
        };
        eprintln!(
            "      the student wrote {} of {} in {seconds:.1} s, {:.0} tokens/s; {ended} ended by themselves",
            counted(*sequences as u64, "sequences"),
            counted(*tokens as u64, "tokens"),
            *tokens as f64 / seconds.max(1e-9),
        );
        eprintln!(
            "      the last, in step {}: {}",
            last.step,
            beginning(&last.text)
        );
    }

    fn say(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("      {text}");
        } else {
            self.bar.println(format!("      {text}"));
        }
    }
}

impl Observer for TrainingProgress {
    fn started(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if done > 0 {
            self.say(&format!("going on after step {done}"));
        }
    }

    fn stepped(&mut self, step: u64, report: &StepReport, seconds: f64) {
        self.recent.push((seconds, report.tokens));
        if self.recent.len() > 10 {
            self.recent.remove(0);
        }
        let spent: f64 = self.recent.iter().map(|(seconds, _)| seconds).sum();
        let tokens: usize = self.recent.iter().map(|(_, tokens)| tokens).sum();
        let mean = spent / self.recent.len() as f64;
        let total = self.bar.length().unwrap_or(step);
        let left = Duration::from_secs_f64(mean * total.saturating_sub(step) as f64);
        let parts: Vec<String> = match (&report.pairs, self.names.len()) {
            (Some(pairs), _) => vec![
                format!("accuracy {:.2}", pairs.accuracy),
                format!("margin {:.4}", pairs.margin),
            ],
            (None, 1) => Vec::new(),
            _ => self
                .names
                .iter()
                .zip(&report.values)
                .map(|(n, v)| format!("{n} {v:.4}"))
                .collect(),
        };
        let parts = match parts.is_empty() {
            true => String::new(),
            false => format!(" ({})", parts.join(", ")),
        };
        let heldout = self
            .heldout
            .map_or_else(String::new, |nll| format!("  held-out {nll:.4}"));
        let memory =
            resident_bytes().map_or_else(String::new, |bytes| format!("  {}", HumanBytes(bytes)));
        let message = format!(
            "loss {:.4}{parts}{heldout}  {:.0} tokens/s  {} left{memory}",
            report.loss,
            tokens as f64 / spent.max(1e-9),
            FormattedDuration(left),
        );
        self.bar.set_position(step);
        let due = self.line_at.elapsed() >= LINE_EVERY || step == total || step == 1;
        if self.bar.is_hidden() && due {
            self.line_at = Instant::now();
            eprintln!("      step {step}/{total}  {message}");
        }
        self.bar.set_message(message);
    }

    fn evaluated(&mut self, step: u64, measured: Heldout) {
        let mean = measured.mean();
        self.heldout = Some(mean);
        let over = match measured {
            Heldout::Tokens(loss) => format!("over {} tokens", loss.tokens),
            Heldout::Pairs(HeldoutPairs { metrics, .. }) => format!(
                "over {} pairs, accuracy {:.3}, margin {:.4}",
                metrics.pairs, metrics.accuracy, metrics.margin
            ),
        };
        self.say(&format!("step {step}: held-out loss {mean:.4} {over}"));
    }

    fn wrote(&mut self, record: &OnPolicyRecord, samples: &[WrittenSample]) {
        if let Some(last) = samples.last() {
            let ended = |sample: &&WrittenSample| sample.finish_reason == Finish::EndOfSequence;
            self.written.sequences += samples.len();
            self.written.ended += samples.iter().filter(ended).count();
            self.written.tokens += record.generated_tokens;
            self.written.seconds += record.generate_seconds;
            self.written.last = Some(last.clone());
        }
    }

    fn saved(&mut self, _step: u64) {}
}

/// Memory of this process, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// What fits into a line of a longer text.
fn beginning(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The most that this process had held when its peak was last begun anew.
static EARLIER_PEAK: AtomicU64 = AtomicU64::new(0);

/// The most memory that this process has held.
pub fn peak_resident_bytes() -> Option<u64> {
    let earlier = EARLIER_PEAK.load(Ordering::Relaxed);
    peak_since_begin().map(|peak| peak.max(earlier))
}

/// Begins the peak anew, at what is held now; false where the system cannot. Linux can where /proc may be written:
/// proc_pid_clear_refs(5).
pub fn begin_peak() -> bool {
    let before = peak_since_begin().unwrap_or(0);
    let begun = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    if begun {
        EARLIER_PEAK.fetch_max(before, Ordering::Relaxed);
    }
    begun
}

/// The most memory that this process has held since [`begin_peak`].
pub fn peak_since_begin() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

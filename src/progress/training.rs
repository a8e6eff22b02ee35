//! A training stage on its way: its steps, what is held out, and what the student writes.

use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, HumanBytes, ProgressBar};
use trainer::heldout::{Heldout, HeldoutPairs};
use trainer::on_policy::samples::{Finish, OnPolicyRecord, WrittenSample};
use trainer::run::Observer;
use trainer::step::StepReport;

use super::resident::resident_bytes;
use super::{LINE_EVERY, Progress, bar, beginning};
use crate::counted::counted;

impl Progress {
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

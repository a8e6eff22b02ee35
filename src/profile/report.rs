//! `profile.json`, and the table on stderr.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::recording::{Key, Recording, Sum};

/// Rows of the table.
const LARGEST: usize = 10;
/// What is less than this share of a list is not shown in it.
const LEAST_SHARE: f64 = 5e-3;

/// Where the time of a stage went. Shares are of its steps; times of operations and of `elsewhere` are without what
/// spans within them took, so that they add up to the steps.
#[derive(Debug, Serialize)]
pub struct Report {
    kind: &'static str,
    #[serde(rename = "as")]
    name: Option<String>,
    /// What a step is here.
    unit: &'static str,
    /// Steps at the start that are left out.
    warm_up: u64,
    steps: u64,
    /// Of all these steps.
    seconds: f64,
    /// Largest first.
    operations: Vec<Operation>,
    /// What the steps did outside of operations.
    elsewhere: Vec<Part>,
    /// The steps by phase, operations included.
    phases: Vec<Part>,
    /// What the stage did before, between and after its steps.
    outside: Vec<Part>,
    stage_seconds: f64,
    #[serde(skip)]
    traced: u64,
}

#[derive(Debug, Serialize)]
struct Operation {
    phase: &'static str,
    operation: &'static str,
    calls: u64,
    seconds: f64,
    share: f64,
    /// Read and written, counted from shapes: each array once.
    bytes: u64,
    gigabytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gigaflops_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Part {
    phase: String,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
}

impl Report {
    pub fn new(kind: &'static str, name: Option<&str>, recording: &Recording) -> Self {
        let seconds = recording.steps.total.as_secs_f64();
        let share = |part: f64| part / seconds.max(1e-12);
        let (in_step, outside): (Vec<_>, Vec<_>) =
            recording.sums.iter().partition(|(key, _)| key.in_step);
        let mut operations: Vec<Operation> = in_step
            .iter()
            .filter_map(|(key, sum)| Some(Operation::new(key.phase, key.operation?, sum, seconds)))
            .collect();
        operations.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let with_share = |parts: Vec<(String, f64)>| {
            let part = |(phase, seconds)| Part {
                phase,
                seconds,
                share: Some(share(seconds)),
            };
            parts.into_iter().map(part).collect()
        };
        let phases_alone = in_step.iter().filter(|(key, _)| key.operation.is_none());
        let mut outside = by_phase(outside.iter().copied());
        let stage_seconds = recording.seconds();
        outside.push(("warm-up".to_string(), recording.warm_up.total.as_secs_f64()));
        let known: f64 = outside.iter().map(|(_, seconds)| seconds).sum();
        outside.push(("other".to_string(), stage_seconds - seconds - known));
        Self {
            kind,
            name: name.map(str::to_string),
            unit: recording.unit,
            warm_up: recording.warm_up.calls,
            steps: recording.steps.calls,
            seconds,
            operations,
            elsewhere: with_share(by_phase(phases_alone.copied())),
            phases: with_share(by_phase(in_step.iter().copied())),
            outside: (outside.into_iter())
                .map(|(phase, seconds)| Part {
                    phase,
                    seconds,
                    share: None,
                })
                .collect(),
            stage_seconds,
            traced: recording.traced(),
        }
    }

    /// The largest items of a step, and where the files are.
    pub fn table(&self, directory: &Path) -> String {
        let steps = self.steps as f64;
        let milliseconds = |seconds: f64| seconds * 1e3 / steps;
        let mut text = self.headline();
        let shown = &self.operations[..self.operations.len().min(LARGEST)];
        let others = &self.operations[shown.len()..];
        let wide = |name: fn(&Operation) -> usize| shown.iter().map(name).max().unwrap_or(0);
        let first = wide(|row| row.phase.len()).max(self.unit.len());
        let second = wide(|row| row.operation.len()).max("elsewhere".len());
        let mut line = |phase: &str, operation: &str, calls: f64, seconds: f64, rates: String| {
            let calls = match calls > 0.0 {
                true => format!("{calls:.0}"),
                false => String::new(),
            };
            let row = format!(
                "{phase:first$}  {operation:second$}  {calls:>6}  {:>9.2}  {:>5.1} %  {rates}",
                milliseconds(seconds),
                seconds / self.seconds.max(1e-12) * 100.0
            );
            text += row.trim_end();
            text.push('\n');
        };
        for row in shown {
            let products = row
                .gigaflops_per_second
                .map_or_else(String::new, |rate| format!("{rate:>7.1}"));
            let rates = format!("{:>6.1}  {products}", row.gigabytes_per_second);
            line(
                row.phase,
                row.operation,
                row.calls as f64 / steps,
                row.seconds,
                rates,
            );
        }
        if !others.is_empty() {
            let calls: u64 = others.iter().map(|row| row.calls).sum();
            let seconds = others.iter().map(|row| row.seconds).sum();
            let name = format!("{} others", others.len());
            line("", &name, calls as f64 / steps, seconds, String::new());
        }
        let uncovered = self.elsewhere.iter().map(|part| part.seconds).sum();
        line("", "elsewhere", 0.0, uncovered, String::new());
        line(self.unit, "", 0.0, self.seconds, String::new());
        let head = format!(
            "{:first$}  {:second$}  {:>6}  {:>9}  {:>7}  {:>6}  {:>7}\n",
            "phase", "operation", "calls", "ms", "share", "GB/s", "GFLOP/s"
        );
        text.insert_str(text.find('\n').map_or(0, |end| end + 1), &head);
        self.write_parts(&mut text, milliseconds);
        self.write_files(&mut text, directory);
        text
    }

    fn headline(&self) -> String {
        let name = (self.name.as_ref()).map_or_else(String::new, |name| format!(" → {name}"));
        let left_out = match self.warm_up {
            0 => String::new(),
            count => format!(", after {count} to warm up"),
        };
        let each = self.seconds / self.steps as f64;
        format!(
            "profile of {}{name}: one {} of {each:.3} s, the mean of {}{left_out}\n",
            self.kind, self.unit, self.steps
        )
    }

    fn write_parts(&self, text: &mut String, milliseconds: impl Fn(f64) -> f64) {
        let mut list = |title: &str, parts: &[Part], show: &dyn Fn(&Part) -> String| {
            let all: f64 = parts.iter().map(|part| part.seconds).sum();
            let parts: Vec<String> = (parts.iter())
                .filter(|part| part.seconds >= all * LEAST_SHARE)
                .map(|part| format!("{} {}", part.phase, show(part)))
                .collect();
            let _ = writeln!(text, "{title}: {}", parts.join(", "));
        };
        let percent = |part: &Part| format!("{:.1} %", part.share.unwrap_or(0.0) * 100.0);
        list("phases", &self.phases, &percent);
        let each = |part: &Part| format!("{:.2} ms", milliseconds(part.seconds));
        list("elsewhere", &self.elsewhere, &each);
        let seconds = |part: &Part| format!("{:.2} s", part.seconds);
        list("outside", &self.outside, &seconds);
    }

    fn write_files(&self, text: &mut String, directory: &Path) {
        let (first, last) = (self.warm_up + 1, self.warm_up + self.traced);
        let _ = writeln!(
            text,
            "written: profile.json and trace.json ({} {first} to {last}; for https://ui.perfetto.dev) in {}",
            self.unit,
            directory.display()
        );
    }
}

impl Operation {
    fn new(phase: &'static str, operation: &'static str, sum: &Sum, steps: f64) -> Self {
        let seconds = sum.own.as_secs_f64();
        let rate = |count: u64| count as f64 / 1e9 / seconds.max(1e-12);
        let flops = Some(sum.cost.flops).filter(|flops| *flops > 0);
        Self {
            phase,
            operation,
            calls: sum.calls,
            seconds,
            share: seconds / steps.max(1e-12),
            bytes: sum.cost.bytes,
            gigabytes_per_second: rate(sum.cost.bytes),
            flops,
            gigaflops_per_second: flops.map(rate),
        }
    }
}

/// Own times joined by phase, largest first.
fn by_phase<'a>(sums: impl Iterator<Item = (&'a Key, &'a Sum)>) -> Vec<(String, f64)> {
    let mut joined: BTreeMap<&str, f64> = BTreeMap::new();
    for (key, sum) in sums {
        *joined.entry(key.phase).or_default() += sum.own.as_secs_f64();
    }
    let mut parts: Vec<(String, f64)> = (joined.into_iter())
        .map(|(phase, seconds)| (phase.to_string(), seconds))
        .collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    parts
}

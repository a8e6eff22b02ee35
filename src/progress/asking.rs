//! A stage that asks a teacher: how far it is, what became of the answers, and what they cost.

use std::time::Instant;

use indicatif::ProgressBar;
use teacher::remote::account::Spending;
use teacher::synth::in_order::Outcome;

use super::{LINE_EVERY, Progress, bar, beginning};
use crate::counted::counted;

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

impl Progress {
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
}

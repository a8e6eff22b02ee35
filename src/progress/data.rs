//! What became of samples on their way into batches.

use datasets::loader::BatchLoader;

use super::Progress;
use crate::counted::counted;

impl Progress {
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
}

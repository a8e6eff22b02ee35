//! Counts in words: one sample, two samples.

use std::fmt::Display;

/// A count of `things`; of a single one without the plural's ending.
pub fn counted(count: impl TryInto<u64> + Display + Copy, things: &str) -> String {
    if !count.try_into().is_ok_and(|count| count == 1) {
        return format!("{count} {things}");
    }
    let ending = if things.ends_with("ches") { "es" } else { "s" };
    let one = things.strip_suffix(ending).unwrap_or(things);
    format!("{count} {one}")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_no_plural() {
        let all = [0, 1, 2].map(|count: usize| counted(count, "samples"));
        assert_eq!(all, ["0 samples", "1 sample", "2 samples"]);
        assert_eq!(counted(1u64, "batches"), "1 batch");
        assert_eq!(counted(1u64, "sequences"), "1 sequence");
    }
}

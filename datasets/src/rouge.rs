//! ROUGE-L: how much of two texts is a common subsequence of their words (Lin, "ROUGE", 2004).

use crate::words::word_hashes;

/// A text as ROUGE-L compares it: the hashes of its words.
#[derive(Debug, Clone, PartialEq)]
pub struct RougeText(Vec<u64>);

impl RougeText {
    pub fn new(text: &str) -> Self {
        Self(word_hashes(text))
    }

    pub fn words(&self) -> usize {
        self.0.len()
    }
}

/// The F-measure (0 to 1) of the longest common subsequence: 2·LCS / (words of both).
pub fn rouge_l(a: &RougeText, b: &RougeText) -> f64 {
    let words = a.words() + b.words();
    match words {
        0 => 0.0,
        _ => 2.0 * longest_common_subsequence(&a.0, &b.0) as f64 / words as f64,
    }
}

/// Whether [`rouge_l`] is above `limit`; texts of too different lengths are told without a look at their words.
pub fn is_above(a: &RougeText, b: &RougeText, limit: f64) -> bool {
    let (a_words, b_words) = (a.words(), b.words());
    let most = 2.0 * a_words.min(b_words) as f64;
    most > limit * (a_words + b_words) as f64 && rouge_l(a, b) > limit
}

fn longest_common_subsequence(a: &[u64], b: &[u64]) -> usize {
    // lengths[j] is that of the words of `a` so far and the first j of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut before = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = match word == other {
                true => before + 1,
                false => above.max(lengths[j]),
            };
            before = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        texts: Vec<String>,
        rouge_l: Vec<Vec<f64>>,
    }

    #[test]
    fn the_f_measure_is_that_of_rouge_score() {
        let golden: Golden =
            serde_json::from_str(include_str!("../tests/golden/rouge.json")).unwrap();
        let texts: Vec<RougeText> = golden.texts.iter().map(|t| RougeText::new(t)).collect();
        for (a, row) in texts.iter().zip(&golden.rouge_l) {
            for (b, expected) in texts.iter().zip(row) {
                let found = rouge_l(a, b);
                assert!((found - expected).abs() < 1e-12, "{found} {expected}");
                for limit in [0.0, 0.3, 0.7, 0.9] {
                    assert_eq!(is_above(a, b, limit), found > limit, "{found} {limit}");
                }
            }
        }
    }
}

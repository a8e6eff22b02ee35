//! Texts that repeat themselves: the rules and limits of MassiveText (Rae et al., "Scaling Language Models: Methods,
//! Analysis & Insights from Training Gopher", arXiv 2112.11446, table A1).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::words::{hash_ngram, hash_word, normalise, words};

/// The largest shares that pass; each is Gopher's where left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repetition {
    /// Largest share of lines that came before, among all that are not blank.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 1))]
    pub max_duplicate_line_share: f64,
    /// Largest share of paragraphs that came before.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 1))]
    pub max_duplicate_paragraph_share: f64,
    /// Largest share of the words' characters that lie in the most frequent pair of words. Runs of three and four
    /// words get 0.9 and 0.8 of this limit, as in Gopher's table.
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 1))]
    pub max_top_ngram_share: f64,
    /// Largest share of the words' characters that lie in runs of five words that came before. Runs of 6 to 10 words
    /// get 14/15 to 10/15 of this limit, as in Gopher's table.
    #[serde(default = "fifteen")]
    #[schemars(range(min = 0, max = 1))]
    pub max_duplicate_ngram_share: f64,
    /// The column that is looked at. All that a record says when left out.
    pub field: Option<String>,
}

fn thirty() -> f64 {
    0.3
}

fn twenty() -> f64 {
    0.2
}

fn fifteen() -> f64 {
    0.15
}

impl Repetition {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let shares = [
            ("max_duplicate_line_share", self.max_duplicate_line_share),
            (
                "max_duplicate_paragraph_share",
                self.max_duplicate_paragraph_share,
            ),
            ("max_top_ngram_share", self.max_top_ngram_share),
            ("max_duplicate_ngram_share", self.max_duplicate_ngram_share),
        ];
        let outside = shares
            .into_iter()
            .filter(|(_, share)| !(0.0..=1.0).contains(share));
        outside
            .map(|(key, _)| (key.to_string(), format!("`{key}` must lie between 0 and 1")))
            .collect()
    }

    pub(super) fn objection(&self, text: &str) -> Option<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let share = duplicate_share(lines);
        if share > self.max_duplicate_line_share {
            return Some(format!("{share:.3} of the lines are copies"));
        }
        let paragraphs = text
            .split("\n\n")
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let share = duplicate_share(paragraphs);
        if share > self.max_duplicate_paragraph_share {
            return Some(format!("{share:.3} of the paragraphs are copies"));
        }
        let text = Words::of(text);
        for n in 2..=4 {
            let limit = self.max_top_ngram_share * (12 - n) as f64 / 10.0;
            let share = text.top_ngram_share(n);
            if share > limit + ROUNDING {
                return Some(format!("{share:.3} of the text is one run of {n} words"));
            }
        }
        for n in 5..=10 {
            let limit = self.max_duplicate_ngram_share * (20 - n) as f64 / 15.0;
            let share = text.duplicate_ngram_share(n);
            if share > limit + ROUNDING {
                return Some(format!("{share:.3} of the text repeats runs of {n} words"));
            }
        }
        None
    }
}

/// A limit is passed by a share equal to it.
const ROUNDING: f64 = 1e-12;

/// The share of items that came before.
fn duplicate_share<T: Hash + Eq>(items: impl Iterator<Item = T>) -> f64 {
    let (mut seen, mut count) = (HashSet::new(), 0usize);
    for item in items {
        seen.insert(item);
        count += 1;
    }
    (count - seen.len()) as f64 / count.max(1) as f64
}

/// The words of a text with their lengths in characters.
struct Words {
    hashes: Vec<u64>,
    /// The characters of the words before each word, and of all.
    before: Vec<usize>,
}

impl Words {
    fn of(text: &str) -> Self {
        let (mut hashes, mut before) = (Vec::new(), vec![0]);
        for word in words(&normalise(text)) {
            hashes.push(hash_word(word));
            before.push(before[before.len() - 1] + word.chars().count());
        }
        Self { hashes, before }
    }

    fn characters(&self, start: usize, n: usize) -> usize {
        self.before[start + n] - self.before[start]
    }

    fn share(&self, characters: usize) -> f64 {
        characters as f64 / self.before[self.hashes.len()].max(1) as f64
    }

    /// Of the most frequent run of `n` words; of several, of the longest. One that occurs once is no repetition.
    fn top_ngram_share(&self, n: usize) -> f64 {
        let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
        for (start, ngram) in self.hashes.windows(n).enumerate() {
            counts
                .entry(hash_ngram(ngram))
                .or_insert((0, self.characters(start, n)))
                .0 += 1;
        }
        let top = counts.into_values().filter(|(count, _)| *count > 1).max();
        self.share(top.map_or(0, |(count, characters)| count * characters))
    }

    /// Of runs of `n` words that came before, none counted twice.
    fn duplicate_ngram_share(&self, n: usize) -> f64 {
        let mut seen = HashSet::new();
        let (mut start, mut characters) = (0, 0);
        while start + n <= self.hashes.len() {
            if seen.insert(hash_ngram(&self.hashes[start..start + n])) {
                start += 1;
            } else {
                characters += self.characters(start, n);
                start += n;
            }
        }
        self.share(characters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        assert_eq!(duplicate_share("a b a a".split(' ')), 0.5);
        // 18 characters; the pair "aa bbb" comes twice with 5 each.
        let text = Words::of("aa bbb c. Aa bbb, ddddddd");
        assert_eq!(text.top_ngram_share(2), 10.0 / 18.0);
        assert_eq!(text.top_ngram_share(3), 0.0);
        let text = Words::of("a b c d e f a b c d e f");
        assert_eq!(text.duplicate_ngram_share(5), 5.0 / 12.0);
        assert_eq!(text.duplicate_ngram_share(7), 0.0);
        assert_eq!(Words::of("").top_ngram_share(2), 0.0);
    }

    #[test]
    fn limits_in_gophers_proportions() {
        let rule: Repetition = serde_json::from_str("{}").unwrap();
        let top: Vec<f64> = (2..=4)
            .map(|n| rule.max_top_ngram_share * (12 - n) as f64 / 10.0)
            .collect();
        let dup: Vec<f64> = (5..=10)
            .map(|n| rule.max_duplicate_ngram_share * (20 - n) as f64 / 15.0)
            .collect();
        let gopher = [0.20, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10];
        for (ours, theirs) in top.iter().chain(&dup).zip(gopher) {
            assert!((ours - theirs).abs() < 1e-12);
        }
        assert!(
            rule.objection("one line\none line\nanother\n")
                .unwrap()
                .contains("0.333 of the lines")
        );
        assert_eq!(
            rule.objection("Nothing here is said more than once, so it may stay."),
            None
        );
    }
}

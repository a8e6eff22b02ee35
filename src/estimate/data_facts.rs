//! How much a data set holds, from its file.

use std::path::{Path, PathBuf};

use datasets::config::DataConfig;
use datasets::read::read_prompts;
use datasets::sample::Sample;
use datasets::token_estimate::estimated_tokens;

use super::known::Known;

/// Files up to this size are read to count what is in them.
const READ_AT_MOST: u64 = 4 << 20;
/// Of larger ones with a `limit` so many samples are read, which tell how long the others are.
const SAMPLED: usize = 256;
/// Bytes of text a token, about, where it is not read: English in vocabularies of 30 to 150 thousand tokens.
pub const BYTES_PER_TOKEN: f64 = 4.0;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DataFacts {
    pub bytes: u64,
    /// Where the file was read, or a `limit` tells.
    pub samples: Option<u64>,
    /// Of the text, and of what is learned of it, where it was read: estimated.
    pub text_tokens: Option<f64>,
    pub learned_tokens: Option<f64>,
}

impl DataFacts {
    /// # Errors
    /// What the system says of the file.
    pub fn of(config: &DataConfig<PathBuf>) -> Known<Self> {
        let bytes = size_of(&config.source).map_err(|error| error.to_string())?;
        let (is_small, limit) = (bytes <= READ_AT_MOST, config.limit);
        let mut facts = Self {
            bytes,
            samples: limit.map(|limit| limit as u64),
            ..Self::default()
        };
        let wanted = match is_small {
            true => limit,
            false => limit.map(|limit| limit.min(SAMPLED)),
        };
        let config = DataConfig {
            limit: wanted,
            ..config.clone()
        };
        let is_read = is_small || wanted.is_some();
        // Questions of evaluations are read elsewhere: they are no samples.
        let Some(read) = is_read.then(|| read_prompts(&config).ok()).flatten() else {
            return Ok(facts);
        };
        let sizes = read.samples.iter().map(sample_tokens);
        let (all, learned) = sizes.fold((0.0, 0.0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        let found = read.samples.len();
        let samples = match wanted == Some(found) {
            true => limit.unwrap_or(found),
            false => found,
        };
        let scaled = |tokens: f64| tokens * samples as f64 / found.max(1) as f64;
        facts.samples = Some(samples as u64);
        facts.text_tokens = Some(scaled(all));
        facts.learned_tokens = Some(scaled(learned));
        Ok(facts)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        let learned = |facts: &Self| facts.learned_tokens.unwrap_or(facts.text());
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            samples: (self.samples.zip(other.samples)).map(|(a, b)| a.saturating_add(b)),
            text_tokens: Some(self.text() + other.text()),
            learned_tokens: Some(learned(&self) + learned(&other)),
        }
    }

    fn text(&self) -> f64 {
        (self.text_tokens).unwrap_or(self.bytes as f64 / BYTES_PER_TOKEN)
    }

    /// Estimated from the text, or from its bytes where it was not read.
    pub fn tokens(&self) -> u64 {
        self.text() as u64
    }

    /// # Errors
    /// Where they are not known: what would tell them.
    pub fn records(&self) -> Known<u64> {
        let unknown = || "how many records the data has: `limit` would tell".to_string();
        self.samples.ok_or_else(unknown)
    }

    /// Of a record, in the mean.
    pub fn tokens_each(&self) -> f64 {
        self.text() / self.samples.unwrap_or(1).max(1) as f64
    }

    /// The share of the tokens that is learned; all where it is not known.
    pub fn learned_share(&self) -> f64 {
        match (self.learned_tokens, self.text_tokens) {
            (Some(learned), Some(all)) if all > 0.0 => learned / all,
            _ => 1.0,
        }
    }
}

/// Tokens of a sample's text, and of what is learned of it.
fn sample_tokens(sample: &Sample) -> (f64, f64) {
    match sample {
        Sample::Text(text) => {
            let all = estimated_tokens(text);
            (all, all)
        }
        Sample::Completion { prompt, completion } => {
            let learned = estimated_tokens(completion);
            (estimated_tokens(prompt) + learned, learned)
        }
        Sample::Conversation(turns) => {
            let tokens = |only: Option<&str>| -> f64 {
                let turns = turns.iter();
                let wanted = turns.filter(|turn| only.is_none_or(|role| turn.role == role));
                wanted.map(|turn| estimated_tokens(&turn.content)).sum()
            };
            (tokens(None), tokens(Some("assistant")))
        }
    }
}

/// Bytes of a file, or of all files below a directory.
pub fn size_of(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += size_of(&entry?.path())?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_file_the_limit_tells_how_much_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("large.jsonl");
        let line = format!("{{\"text\": \"{}\"}}\n", "word ".repeat(200));
        std::fs::write(&path, line.repeat(5000)).unwrap();
        let of = |limit: Option<usize>| {
            let config = DataConfig {
                limit,
                ..DataConfig::new(path.clone())
            };
            DataFacts::of(&config).unwrap()
        };
        assert!(of(None).bytes > READ_AT_MOST);
        assert_eq!((of(None).samples, of(None).text_tokens), (None, None));
        for limit in [10, 1000] {
            let found = of(Some(limit));
            assert_eq!(found.samples, Some(limit as u64));
            assert_eq!(found.tokens(), 200 * limit as u64);
        }
        let both = of(Some(10)).plus(of(Some(20)));
        assert_eq!((both.samples, both.tokens()), (Some(30), 6000));
    }
}

//! How much a data set holds, from its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::config::DataConfig;
use datasets::packing::SampleShape;
use datasets::preference::read_preferences;
use datasets::read::read_prompts;
use datasets::sample::{Message, Sample};
use datasets::template_tokens::TemplateTokens;
use datasets::token_estimate::estimated_tokens;

use super::known::Known;

/// Files up to this size are read to count what is in them.
const READ_AT_MOST: u64 = 4 << 20;
/// Of larger ones with a `limit` so many samples are read, which tell how long the others are.
const SAMPLED: usize = 256;
/// Bytes of text a token, about, where it is not read: English in vocabularies of 30 to 150 thousand tokens.
const BYTES_PER_TOKEN: f64 = 4.0;
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataFacts {
    pub bytes: u64,
    /// Where the file was read, or a `limit` tells; of pairs a pair each.
    pub samples: Option<u64>,
    /// Of all samples, and of what is learned of them, where they were read: estimated.
    pub text_tokens: Option<f64>,
    pub learned_tokens: Option<f64>,
    /// Of the samples that were read; of pairs both sides, one behind the other.
    pub sizes: Arc<[SampleSize]>,
    pub pairs: bool,
    /// Whether there may be less of it: an earlier stage will make it.
    pub at_most: bool,
    /// Answers to one prompt that stand side by side; 0 where that is not said.
    pub candidates: usize,
}

/// Tokens of a sample, estimated, without what a template adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSize {
    /// Only read, before what is learned.
    pub read: f64,
    pub learned: f64,
    /// Of a conversation.
    pub turns: usize,
    /// Plain text, that may be cut anywhere.
    pub splittable: bool,
}

impl SampleSize {
    pub fn tokens(&self) -> f64 {
        self.read + self.learned
    }

    /// What is asked where it is a prompt: a text is one as a whole.
    pub fn prompt(&self) -> f64 {
        match self.splittable {
            true => self.tokens(),
            false => self.read,
        }
    }

    /// As a template shows it, which ends what is learned with a token.
    pub fn shape(&self, template: TemplateTokens) -> SampleShape {
        let read = self.read + template.around(self.turns);
        let first_target = (read.round() as u32).max(1);
        SampleShape {
            length: first_target.saturating_add(self.learned.round() as u32),
            first_target,
            splittable: self.splittable,
        }
    }
}

impl DataFacts {
    /// # Errors
    /// What the system says of the file.
    pub fn of(config: &DataConfig<PathBuf>, pairs: bool) -> Known<Self> {
        let bytes = size_of(&config.source).map_err(|error| error.to_string())?;
        let (is_small, limit) = (bytes <= READ_AT_MOST, config.limit);
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
        let Some(sizes) = is_read.then(|| sizes(&config, pairs)).flatten() else {
            return Ok(Self {
                bytes,
                samples: limit.map(|limit| limit as u64),
                pairs,
                ..Self::default()
            });
        };
        let found = sizes.len() / (1 + usize::from(pairs));
        let samples = match wanted == Some(found) {
            true => limit.unwrap_or(found),
            false => found,
        };
        let read = Self::of_sizes(sizes, samples as u64, pairs);
        Ok(Self { bytes, ..read })
    }

    /// So many samples, of which some have these sizes and the others are alike; of pairs both sides of each.
    pub fn of_sizes(sizes: impl Into<Arc<[SampleSize]>>, samples: u64, pairs: bool) -> Self {
        let sizes = sizes.into();
        let found = sizes.len() / (1 + usize::from(pairs));
        let scale = samples as f64 / found.max(1) as f64;
        Self {
            samples: Some(samples),
            text_tokens: Some(scale * sizes.iter().map(SampleSize::tokens).sum::<f64>()),
            learned_tokens: Some(scale * sizes.iter().map(|size| size.learned).sum::<f64>()),
            sizes,
            pairs,
            ..Self::default()
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        let learned = |facts: &Self| facts.learned_tokens.unwrap_or(facts.text());
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            samples: (self.samples.zip(other.samples)).map(|(a, b)| a.saturating_add(b)),
            text_tokens: Some(self.text() + other.text()),
            learned_tokens: Some(learned(&self) + learned(&other)),
            sizes: self.sizes.iter().chain(&*other.sizes).copied().collect(),
            pairs: self.pairs,
            at_most: self.at_most || other.at_most,
            candidates: 0,
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

/// The samples of a file, or the sides of its pairs; nothing where it holds none.
fn sizes(config: &DataConfig<PathBuf>, pairs: bool) -> Option<Arc<[SampleSize]>> {
    if !pairs {
        let read = read_prompts(config).ok()?;
        return Some(read.samples.iter().map(sample_size).collect());
    }
    let read = read_preferences(config).ok()?;
    let sides = read.pairs.iter().flat_map(|pair| {
        [&pair.chosen, &pair.rejected].map(|side| SampleSize {
            read: tokens_of(&pair.prompt),
            learned: tokens_of(side),
            turns: pair.prompt.len() + side.len(),
            splittable: false,
        })
    });
    Some(sides.collect())
}

fn sample_size(sample: &Sample) -> SampleSize {
    let size = |read, learned| SampleSize {
        read,
        learned,
        turns: 0,
        splittable: false,
    };
    match sample {
        Sample::Text(text) => SampleSize {
            splittable: true,
            ..size(0.0, estimated_tokens(text))
        },
        Sample::Completion { prompt, completion } => {
            size(estimated_tokens(prompt), estimated_tokens(completion))
        }
        Sample::Conversation(turns) => {
            let answers = turns.iter().filter(|turn| turn.role == "assistant");
            let learned = answers.map(|turn| estimated_tokens(&turn.content)).sum();
            SampleSize {
                turns: turns.len(),
                ..size(tokens_of(turns) - learned, learned)
            }
        }
    }
}

fn tokens_of(turns: &[Message]) -> f64 {
    let each = turns.iter().map(|turn| estimated_tokens(&turn.content));
    each.sum()
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
            DataFacts::of(&config, false).unwrap()
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

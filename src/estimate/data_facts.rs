//! How much a data set holds, from its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::packing::SampleShape;
use datasets::preference::read_preferences;
use datasets::read::read_prompts;
use datasets::sample::{Message, Sample};
use datasets::template_tokens::TemplateTokens;
use datasets::token_estimate::estimated_tokens;

use super::known::Known;

/// Files up to this size are read to count what is in them.
const READ_AT_MOST: u64 = 4 << 20;
/// Of a mixture so many sizes are kept.
const MIXED_SIZES: usize = 4096;
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
    /// Why a file that is small enough to be read could not be.
    pub problem: Option<Arc<str>>,
}

/// Tokens of a sample, estimated, without what a template adds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampleSize {
    /// Only read, before what is learned.
    pub read: f64,
    pub learned: f64,
    /// Only read, between what is learned.
    pub between: f64,
    /// Of a conversation.
    pub turns: usize,
    /// Plain text, that may be cut anywhere.
    pub splittable: bool,
}

impl SampleSize {
    pub fn tokens(&self) -> f64 {
        self.read + self.learned + self.between
    }

    /// What is asked where it is a prompt: a text is one as a whole.
    pub fn prompt(&self) -> f64 {
        match self.splittable {
            true => self.tokens(),
            false => self.read,
        }
    }

    /// As a template shows it. What opens the first answer is read before it; where turns end is taken to be read, too.
    pub fn shape(&self, template: TemplateTokens) -> SampleShape {
        let read = self.read + template.around(self.turns.min(2));
        let behind = self.learned + self.behind(template);
        let first_target = (read.round() as u32).max(1);
        SampleShape {
            length: ((read + behind).round() as u32).max(first_target),
            first_target,
            splittable: self.splittable,
        }
    }

    /// Read and not learned behind the first answer.
    fn behind(&self, template: TemplateTokens) -> f64 {
        self.between + self.turns.saturating_sub(2) as f64 * template.turn
    }

    /// Of what stands behind where the first answer begins the share that is learned.
    pub fn share_behind(&self, template: TemplateTokens) -> f64 {
        match self.learned > 0.0 {
            true => self.learned / (self.learned + self.behind(template)),
            false => 0.0,
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
        let read = is_read.then(|| sizes(&config, pairs).map_err(|error| error.to_string()));
        let sizes = match read {
            Some(Ok(sizes)) => sizes,
            unread => {
                return Ok(Self {
                    bytes,
                    samples: limit.map(|limit| limit as u64),
                    pairs,
                    problem: unread.and_then(|read| read.err().map(Arc::from)),
                    ..Self::default()
                });
            }
        };
        let found = sizes.len() / sides(pairs);
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
        let found = sizes.len() / sides(pairs);
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

    /// So many of the sizes at most, from all over the data; of pairs both sides. A text that may be cut counts as one of
    /// `longest` tokens at most.
    pub fn some_sizes(&self, most: usize, longest: f64) -> Vec<SampleSize> {
        let sides = sides(self.pairs);
        let every = (self.sizes.len() / sides).div_ceil(most.max(1)).max(1);
        let units = self.sizes.chunks(sides).step_by(every).flatten();
        let clipped = |size: &SampleSize| match size.splittable {
            true => SampleSize {
                learned: size.learned.min(longest),
                ..*size
            },
            false => *size,
        };
        units.map(clipped).collect()
    }

    /// As many samples as there are in all parts, of each its share; where they are not counted, all that the parts hold.
    pub fn mixed(parts: &[(Self, f64)]) -> Self {
        if let [(alone, _)] = parts {
            return alone.clone();
        }
        let mut counts = parts.iter().map(|(part, _)| part.samples);
        let samples = counts.try_fold(0_u64, |sum, count| Some(sum.saturating_add(count?)));
        let weights: f64 = parts.iter().map(|(_, weight)| weight).sum();
        let (mut text, mut learned, mut sizes) = (0.0, 0.0, Vec::new());
        for (part, weight) in parts {
            let share = weight / weights;
            let of_part = samples.map_or(part.text(), |samples| {
                share * samples as f64 * part.tokens_each()
            });
            text += of_part;
            learned += of_part * part.learned_share();
            match samples {
                Some(_) => {
                    let drawn = (share * MIXED_SIZES as f64).ceil() as usize;
                    let some = part.some_sizes(drawn, f64::INFINITY);
                    let drawn = drawn * sides(part.pairs);
                    sizes.extend(some.iter().cycle().take(drawn).copied());
                }
                None => sizes.extend_from_slice(&part.sizes),
            }
        }
        Self {
            bytes: (parts.iter()).fold(0, |sum, (part, _)| sum.saturating_add(part.bytes)),
            samples,
            text_tokens: Some(text),
            learned_tokens: Some(learned),
            sizes: sizes.into(),
            pairs: parts.iter().all(|(part, _)| part.pairs),
            at_most: parts.iter().any(|(part, _)| part.at_most),
            candidates: 0,
            problem: parts.iter().find_map(|(part, _)| part.problem.clone()),
        }
    }

    fn text(&self) -> f64 {
        (self.text_tokens).unwrap_or(self.bytes as f64 / BYTES_PER_TOKEN)
    }

    /// Of the file, or, before there is one, about as many as its text has.
    pub fn text_bytes(&self) -> u64 {
        (self.bytes).max((BYTES_PER_TOKEN * self.text()) as u64)
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

/// What stands one behind the other of a pair, or of a sample.
pub fn sides(pairs: bool) -> usize {
    1 + usize::from(pairs)
}

/// The samples of a file, or the sides of its pairs.
fn sizes(config: &DataConfig<PathBuf>, pairs: bool) -> Result<Arc<[SampleSize]>, DataError> {
    if !pairs {
        let read = read_prompts(config)?;
        return Ok(read.samples.iter().map(sample_size).collect());
    }
    let read = read_preferences(config)?;
    let sides = read.pairs.iter().flat_map(|pair| {
        [&pair.chosen, &pair.rejected].map(|side| SampleSize {
            read: tokens_of(&pair.prompt),
            learned: tokens_of(side),
            turns: pair.prompt.len() + side.len(),
            ..SampleSize::default()
        })
    });
    Ok(sides.collect())
}

fn sample_size(sample: &Sample) -> SampleSize {
    match sample {
        Sample::Text(text) => SampleSize {
            learned: estimated_tokens(text),
            splittable: true,
            ..SampleSize::default()
        },
        Sample::Completion { prompt, completion } => SampleSize {
            read: estimated_tokens(prompt),
            learned: estimated_tokens(completion),
            ..SampleSize::default()
        },
        Sample::Conversation(turns) => {
            let is_answer = |turn: &&Message| turn.role == "assistant";
            let first = turns.iter().position(|turn| is_answer(&turn));
            let (before, behind) = turns.split_at(first.unwrap_or(turns.len()));
            let answers = behind.iter().filter(is_answer);
            let learned: f64 = answers.map(|turn| estimated_tokens(&turn.content)).sum();
            SampleSize {
                read: tokens_of(before),
                learned,
                between: (tokens_of(behind) - learned).max(0.0),
                turns: turns.len(),
                splittable: false,
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
        let both = DataFacts::mixed(&[(of(Some(10)), 1.0), (of(Some(20)), 1.0)]);
        assert_eq!((both.samples, both.tokens()), (Some(30), 6000));
    }

    #[test]
    fn parts_of_a_mixture_count_by_their_weights() {
        let text = |learned| SampleSize {
            learned,
            splittable: true,
            ..SampleSize::default()
        };
        let part = |tokens| DataFacts::of_sizes([text(tokens)], 10, false);
        let mixed = |a, b| DataFacts::mixed(&[(part(100.0), a), (part(10.0), b)]);
        assert_eq!(
            (mixed(1.0, 1.0).samples, mixed(1.0, 1.0).tokens()),
            (Some(20), 1100)
        );
        assert_eq!(mixed(9.0, 1.0).tokens(), 1820);
        let long = |data: DataFacts| data.sizes.iter().filter(|size| size.learned > 50.0).count();
        assert!(long(mixed(9.0, 1.0)) > 8 * long(mixed(1.0, 9.0)));
        let alone = DataFacts::mixed(&[(part(100.0), 3.0)]);
        assert_eq!(alone, part(100.0));
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("broken.jsonl");
        std::fs::write(&path, "{\"text\": ").unwrap();
        let found = DataFacts::of(&DataConfig::new(path), false).unwrap();
        assert!(found.problem.is_some() && found.sizes.is_empty());
    }
}

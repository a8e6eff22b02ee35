//! Data as training stages take it in: tokenised once, served by number.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use datasets::cache::TokenCache;
use datasets::chat_template::ChatTemplate;
use datasets::config::DataConfig;
use datasets::error::DataError;
use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
use datasets::mask::SampleEncoder;
use datasets::mixture::Corpus;
use datasets::packing::Packing;
use datasets::random::Random;
use datasets::read::{read_prompts, read_samples};
use datasets::sample::Sample;
use datasets::tokenizer::Tokenizer;
use model::batch::TokenBatch;
use model::phase;
use trainer::config::TrainConfig;

use super::Chain;
use crate::memory::return_freed_memory;
use crate::plan::PlannedStage;
use crate::recipe::{DataMix, Origin};

/// What a stage that makes data leaves in its directory.
pub const DATA: &str = "data.jsonl";
/// Tokens of a calibration batch, unless one sequence has more.
const TOKENS_AT_A_TIME: usize = 2048;

/// Data as tokens: where they are kept, what is read, and how it is encoded.
type ReadTokens = fn(&Path, &DataConfig<PathBuf>, &SampleEncoder) -> Result<TokenCache, DataError>;

impl Chain<'_> {
    /// The batches of a training stage. Stages with the same seed and data see the same batches, so that
    /// they can be compared.
    pub fn training_data(
        &self,
        stage: &PlannedStage,
        mix: &DataMix,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
    ) -> Result<BatchLoader> {
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let corpus = self.corpus(stage, mix, &encoder)?;
        let batch = BatchSize::Rows(config.rows_per_step());
        self.loader(corpus, config, tokenizer, batch)
    }

    /// The tokens of mixed data.
    pub fn corpus(
        &self,
        stage: &PlannedStage,
        mix: &DataMix,
        encoder: &SampleEncoder,
    ) -> Result<Corpus> {
        let parts = mix
            .names()
            .zip(&mix.0)
            .map(|((key, _), share)| Ok((self.tokens(stage, &key, encoder)?, share.weight)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Corpus::new(parts)?)
    }

    /// The held-out batches, in the order of the data.
    pub fn heldout_data(
        &self,
        stage: &PlannedStage,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
    ) -> Result<Option<BatchLoader>> {
        if config.heldout.is_none() {
            return Ok(None);
        }
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let cache = self.tokens(stage, "heldout", &encoder)?;
        let corpus = Corpus::new(vec![(cache, 1.0)])?;
        let rows = config.micro_batch.unwrap_or(4);
        self.loader(corpus, config, tokenizer, BatchSize::Rows(rows))
            .map(Some)
    }

    /// The tokens of one data set, from the cache or made now.
    pub fn tokens(
        &self,
        stage: &PlannedStage,
        key: &str,
        encoder: &SampleEncoder,
    ) -> Result<Arc<TokenCache>> {
        self.tokens_by(stage, key, encoder, TokenCache::of_data)
    }

    /// The same of samples or of pairs, as `read` takes the data.
    pub fn tokens_by(
        &self,
        stage: &PlannedStage,
        key: &str,
        encoder: &SampleEncoder,
        read: ReadTokens,
    ) -> Result<Arc<TokenCache>> {
        let _phase = phase!("tokenise");
        let (name, config) = self.data_config(stage, key)?;
        let directory = self.cache.root().join("tokens");
        let cache = read(&directory, &config, encoder).with_context(|| format!("data `{name}`"))?;
        // Texts that were cut into tokens leave much behind, which nothing later finds a use for.
        return_freed_memory();
        Ok(Arc::new(cache))
    }

    /// The samples of the data that `key` of the stage names.
    pub fn samples(&self, stage: &PlannedStage, key: &str) -> Result<Vec<Sample>> {
        let _phase = phase!("read data");
        let (name, config) = self.data_config(stage, key)?;
        let report = read_samples(&config).with_context(|| format!("data `{name}`"))?;
        Ok(report.samples)
    }

    /// The same as questions, answered or not.
    pub fn prompts(&self, stage: &PlannedStage, key: &str) -> Result<Vec<Sample>> {
        let (name, config) = self.data_config(stage, key)?;
        let report = read_prompts(&config).with_context(|| format!("data `{name}`"))?;
        Ok(report.samples)
    }

    /// The data that `key` of the stage names, declared or made by an earlier stage, and where it lies.
    ///
    /// A stage that sifts data leaves records as they were, so what the recipe says of their columns holds on.
    pub fn data_config(
        &self,
        stage: &PlannedStage,
        key: &str,
    ) -> Result<(String, DataConfig<PathBuf>)> {
        let input = self.input(stage, key)?;
        let name = input.reference.name.clone();
        let config = match (&input.origin, self.made_by(&input.origin)) {
            (Origin::Data(declared), _) => {
                self.recipe.data[declared].with_source(self.data[declared].clone())
            }
            (Origin::Stage(_), Some(maker)) => {
                let columns = match maker.action.sifts() {
                    Some(_) => self.data_config(maker, "data")?.1.columns,
                    None => None,
                };
                DataConfig {
                    columns,
                    ..DataConfig::new(maker.directory.join(DATA))
                }
            }
            _ => bail!("`{name}` is not data"),
        };
        Ok((name, config))
    }

    fn loader(
        &self,
        corpus: Corpus,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
        batch: BatchSize,
    ) -> Result<BatchLoader> {
        let loader = self.loader_config(config, tokenizer, batch);
        Ok(BatchLoader::new(corpus, loader)?)
    }

    /// How a training stage cuts its data.
    pub fn loader_config(
        &self,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
        batch: BatchSize,
    ) -> LoaderConfig {
        LoaderConfig {
            sequence_length: config.sequence_length,
            batch,
            seed: self.recipe.seed,
            stage: String::new(),
            packing: config.packing,
            pad: pad_of(tokenizer),
        }
    }
}

/// `sequences` windows of `length` tokens out of the data as one text, drawn without replacement, in batches without
/// padding.
///
/// # Errors
/// When the text is too short: windows do not overlap.
pub fn calibration_windows(
    cache: &TokenCache,
    sequences: usize,
    length: usize,
    seed: u64,
) -> Result<Vec<TokenBatch>> {
    let needed = (sequences as u64).saturating_mul(length as u64);
    let found = cache.tokens();
    if found < needed {
        bail!(
            "the text has {found} tokens, {sequences} sequences of {length} need {needed}\nhint: fewer or shorter sequences, or more text"
        );
    }
    let windows = (found / length as u64) as usize;
    let mut random = Random::new(seed, "quantize", 0, "calibration");
    let mut chosen = random.permutation(windows);
    chosen.truncate(sequences);
    chosen.sort_unstable();
    let starts: Vec<usize> = chosen.iter().map(|&at| at as usize * length).collect();
    let samples = (0..cache.len()).map(|index| cache.sample(index).ids);
    let ids = cut_windows(samples, &starts, length);
    let rows = (TOKENS_AT_A_TIME / length).max(1);
    let batch = |ids: &[u32]| TokenBatch {
        rows: ids.len() / length,
        length,
        ids: ids.to_vec(),
        positions: (0..length as u32).cycle().take(ids.len()).collect(),
        segments: vec![1; ids.len()],
    };
    Ok(ids.chunks(rows * length).map(batch).collect())
}

/// The tokens of windows of `length` that begin at `starts`, rising, of all samples joined.
fn cut_windows<'a>(
    samples: impl Iterator<Item = &'a [u32]>,
    starts: &[usize],
    length: usize,
) -> Vec<u32> {
    let mut ids = Vec::with_capacity(starts.len() * length);
    let mut first = 0;
    for sample in samples {
        let end = first + sample.len();
        let overlapping = starts.partition_point(|start| start + length <= first);
        for &start in (starts[overlapping..].iter()).take_while(|start| **start < end) {
            let part = start.max(first) - first..(start + length).min(end) - first;
            ids.extend_from_slice(&sample[part]);
        }
        first = end;
    }
    ids
}

/// Rows of calibration sequences for measuring a model, at most `sequences` of `length` tokens.
pub fn calibration_rows(
    cache: Arc<TokenCache>,
    sequences: usize,
    length: usize,
) -> Result<BatchLoader> {
    let loader = LoaderConfig {
        sequence_length: length,
        batch: BatchSize::Rows(sequences.min(4)),
        seed: 0,
        stage: "calibration".into(),
        packing: Packing::Stream,
        pad: 0,
    };
    Ok(BatchLoader::new(Corpus::new(vec![(cache, 1.0)])?, loader)?)
}

/// The id that fills rows up.
pub fn pad_of(tokenizer: &Tokenizer) -> u32 {
    let pad = tokenizer.pad_id().or(tokenizer.eos_ids().first().copied());
    pad.unwrap_or(0)
}

/// With the tokenizer's own chat template, or with another.
pub fn encoder<'t>(
    chat_template: Option<&str>,
    tokenizer: &'t Tokenizer,
) -> Result<SampleEncoder<'t>> {
    Ok(match chat_template {
        Some(source) => {
            let template = ChatTemplate::with_tokens_of(source, tokenizer)?;
            SampleEncoder::with_template(tokenizer, Some(template))
        }
        None => SampleEncoder::new(tokenizer)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_run_over_the_ends_of_samples() {
        let all: Vec<u32> = (0..40).collect();
        for cuts in [vec![40], vec![3, 4, 5, 28], vec![1; 40], vec![0, 13, 27]] {
            let mut rest = all.as_slice();
            let samples = cuts.iter().map(|&count| {
                let (sample, others) = rest.split_at(count);
                rest = others;
                sample
            });
            let found = cut_windows(samples, &[4, 8, 20, 36], 4);
            let expected: Vec<u32> = [4..12, 20..24, 36..40].into_iter().flatten().collect();
            assert_eq!(found, expected, "{cuts:?}");
        }
    }
}

//! Data as training stages take it in: tokenised once, served by number.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use datasets::cache::TokenCache;
use datasets::chat_template::ChatTemplate;
use datasets::config::DataConfig;
use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
use datasets::mask::SampleEncoder;
use datasets::mixture::Corpus;
use datasets::packing::Packing;
use datasets::read::read_samples;
use datasets::sample::Sample;
use datasets::tokenizer::Tokenizer;
use model::phase;
use trainer::config::TrainConfig;

use super::Chain;
use crate::plan::PlannedStage;
use crate::recipe::{Action, DataMix, Origin};

/// What a stage that makes data leaves in its directory.
pub const DATA: &str = "data.jsonl";

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
        let encoder = encoder(config, tokenizer)?;
        let parts = mix
            .names()
            .zip(&mix.0)
            .map(|((key, _), share)| Ok((self.tokens(stage, &key, &encoder)?, share.weight)))
            .collect::<Result<Vec<_>>>()?;
        let batch = BatchSize::Rows(config.rows_per_step());
        self.loader(Corpus::new(parts)?, config, tokenizer, batch)
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
        let encoder = encoder(config, tokenizer)?;
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
        let _phase = phase!("tokenise");
        let (name, config) = self.data_config(stage, key)?;
        let directory = self.cache.root().join("tokens");
        let cache = TokenCache::of_data(&directory, &config, encoder)
            .with_context(|| format!("data `{name}`"))?;
        Ok(Arc::new(cache))
    }

    /// The samples of the data that `key` of the stage names.
    pub fn samples(&self, stage: &PlannedStage, key: &str) -> Result<Vec<Sample>> {
        let _phase = phase!("read data");
        let (name, config) = self.data_config(stage, key)?;
        let report = read_samples(&config).with_context(|| format!("data `{name}`"))?;
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
                let sifts = matches!(
                    maker.action,
                    Action::Filter(_) | Action::Dedup(_) | Action::Decontaminate(_)
                );
                let columns = match sifts {
                    true => self.data_config(maker, "data")?.1.columns,
                    false => None,
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
        let pad = tokenizer.pad_id().or(tokenizer.eos_ids().first().copied());
        let loader = LoaderConfig {
            sequence_length: config.sequence_length,
            batch,
            seed: self.recipe.seed,
            stage: String::new(),
            packing: config.packing,
            pad: pad.unwrap_or(0),
        };
        Ok(BatchLoader::new(corpus, loader)?)
    }
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

fn encoder<'t>(config: &TrainConfig, tokenizer: &'t Tokenizer) -> Result<SampleEncoder<'t>> {
    Ok(match &config.chat_template {
        Some(source) => {
            let template = ChatTemplate::with_tokens_of(source, tokenizer)?;
            SampleEncoder::with_template(tokenizer, Some(template))
        }
        None => SampleEncoder::new(tokenizer)?,
    })
}

//! Data as training stages take it in: tokenised once, served by number.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use datasets::cache::TokenCache;
use datasets::chat_template::ChatTemplate;
use datasets::loader::{BatchLoader, BatchSize, LoaderConfig};
use datasets::mask::SampleEncoder;
use datasets::mixture::Corpus;
use datasets::packing::Packing;
use datasets::tokenizer::Tokenizer;
use model::phase;
use trainer::config::TrainConfig;

use super::Chain;
use crate::plan::PlannedStage;
use crate::recipe::{DataMix, Origin};

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
        let _phase = phase!("tokenise");
        let input = self.input(stage, key)?;
        let Origin::Data(name) = &input.origin else {
            bail!("`{}` is not data", input.reference.name);
        };
        let config = self.recipe.data[name].with_source(self.data[name].clone());
        let directory = self.cache.root().join("tokens");
        let cache = TokenCache::of_data(&directory, &config, encoder)
            .with_context(|| format!("data `{name}`"))?;
        Ok(Arc::new(cache))
    }

    fn loader(
        &self,
        corpus: Corpus,
        config: &TrainConfig,
        tokenizer: &Tokenizer,
        batch: BatchSize,
    ) -> Result<BatchLoader> {
        let loader = LoaderConfig {
            sequence_length: config.sequence_length,
            batch,
            seed: self.recipe.seed,
            stage: String::new(),
            packing: config.packing,
            pad: pad_of(tokenizer),
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

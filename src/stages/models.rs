//! Models as stages take them in and leave them behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use datasets::tokenizer::Tokenizer;
use model::build::Placement;
use model::decoder::Decoder;
use model::linear::lora::LoraConfig;
use model::linear::{Linear, QuantizedLinear};
use model::load::{
    ADAPTER, load_base, load_decoder, load_frozen_decoder, load_frozen_decoder_as, random_decoder,
    save_decoder,
};
use model::phase;
use model::weights::checkpoint::Checkpoint;
use model::weights::dtype::WeightDtype;
use model::weights::error::WeightsError;
use model::weights::hf_config_writer::check_expressible;
use model::weights::quantization::write_quantization;
use model::weights::staged_directory::StagedDirectory;
use serde_json::Value;
use teacher::tokenizer::{check_fit, load_tokenizer, optional_tokenizer};

use super::Chain;
use crate::adapter;
use crate::export::{ExportSource, Weights};
use crate::plan::PlannedStage;
use crate::recipe::{Input, Origin};
use crate::source::ModelSource;

/// What becomes of a quantised model's rounding of activations where the model is changed.
const ACTIVATIONS_GO: &str =
    "the rounding of activations goes: the result computes with them as they are";

/// Quantised layers by module, in the order of their names.
pub type Layers = BTreeMap<String, QuantizedLinear>;

/// A model with the tokenizer that its ids belong to.
pub struct OpenModel {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

/// A model as it is stored.
pub struct StoredModel {
    pub checkpoint: Checkpoint,
    /// In place of its own tokenizer.
    pub borrowed: Option<Tokenizer>,
}

impl StoredModel {
    /// The tokenizer that the model's ids belong to, and the model.
    fn with_tokenizer(self) -> Result<(Tokenizer, Checkpoint)> {
        Ok(match self.borrowed {
            Some(tokenizer) => (tokenizer, self.checkpoint),
            None => (load_tokenizer(&self.checkpoint)?, self.checkpoint),
        })
    }

    fn into_export(self) -> Result<ExportSource> {
        if self.borrowed.is_none() {
            // One that does not fit is refused; without one a model is exported with a warning.
            optional_tokenizer(&self.checkpoint)?;
        }
        Ok(ExportSource {
            weights: Weights::Stored(Box::new(self.checkpoint)),
            tokenizer: self.borrowed,
        })
    }
}

impl Chain<'_> {
    /// The model that `key` of the stage names, on the run's device, to be read only.
    pub fn open_model(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        let held_as = match &self.input(stage, key)?.origin {
            Origin::Model(name) => self.recipe.models[name].held_as,
            _ => None,
        };
        self.open(stage, key, |checkpoint, placement| {
            let form = held_as.unwrap_or_else(|| checkpoint.base_form());
            load_frozen_decoder_as(checkpoint, placement, form)
        })
    }

    /// As [`Chain::open_model`], to be changed: what an adapter adds is merged in.
    pub fn open_whole(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        let mut opened = self.open_to_change(stage, key)?;
        opened.decoder.merge_adapters();
        let linears = opened.decoder.linears_mut();
        let rounded = linears.filter_map(|linear| linear.activations.take());
        if rounded.count() > 0 {
            tracing::warn!("{ACTIVATIONS_GO}");
        }
        Ok(opened)
    }

    /// The model that `key` of the stage names, to be trained; what an adapter adds is merged in.
    pub fn open_trainable(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        self.open_to_save(stage, key, |checkpoint, placement| {
            warn_of_quantization(checkpoint);
            load_decoder(checkpoint, placement)
        })
    }

    /// The model that `key` of the stage names, frozen, with an adapter to be trained: its own, or a fresh one.
    ///
    /// # Errors
    /// Also when the model's own adapter is not of the kind that is asked for.
    pub fn open_adaptable(
        &self,
        stage: &PlannedStage,
        key: &str,
        config: &LoraConfig,
    ) -> Result<(OpenModel, Checkpoint)> {
        let name = &self.input(stage, key)?.reference.name;
        let opened = self.stored(stage, key).and_then(|stored| {
            let stored = stored.context(
                "an adapter needs a model that is stored, and this one is random\nhint: leave out `adapter`",
            )?;
            let (tokenizer, checkpoint) = stored.with_tokenizer()?;
            warn_of_quantization(&checkpoint);
            let mut decoder = load_base(&checkpoint, &self.placement, config.base)?;
            match checkpoint.adapter() {
                None => (decoder.add_lora(ADAPTER, config, self.recipe.seed))
                    .with_context(|| self.key_of(stage, "adapter"))?,
                Some(adapter) => {
                    if let Some(difference) = adapter.difference(config, &decoder) {
                        bail!(
                            "the adapter in {} cannot be continued: {difference}\nhint: ask for an adapter like it, or leave out `adapter` to train the merged model",
                            adapter.path().display()
                        );
                    }
                    decoder.freeze();
                    adapter.attach(ADAPTER, &mut decoder);
                    (decoder.linears_mut().filter_map(Linear::adapter_mut))
                        .for_each(|lora| lora.dropout = config.dropout);
                }
            }
            Ok((OpenModel { decoder, tokenizer }, checkpoint))
        });
        opened.with_context(|| format!("model `{name}`"))
    }

    /// As [`Chain::open_model`], of which the stage will save a changed one.
    ///
    /// # Errors
    /// Also when that cannot be saved: better now than after hours of training.
    pub fn open_to_change(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        self.open_to_save(stage, key, load_frozen_decoder)
    }

    fn open_to_save(
        &self,
        stage: &PlannedStage,
        key: &str,
        load: impl Fn(&Checkpoint, &Placement) -> Result<Decoder, WeightsError>,
    ) -> Result<OpenModel> {
        let opened = self.open(stage, key, load)?;
        let path = stage.directory.join("model/config.json");
        check_expressible(&path, &opened.decoder.config)
            .with_context(|| self.key_of(stage, key))?;
        Ok(opened)
    }

    fn open(
        &self,
        stage: &PlannedStage,
        key: &str,
        load: impl Fn(&Checkpoint, &Placement) -> Result<Decoder, WeightsError>,
    ) -> Result<OpenModel> {
        let _phase = phase!("open models");
        let input = self.input(stage, key)?;
        let opened = match (self.stored(stage, key), &input.origin) {
            (Ok(None), Origin::Model(name)) => self.open_random(name),
            (Ok(None), _) => bail!("`{}` is not a model", input.reference.name),
            (Ok(Some(stored)), _) => stored.with_tokenizer().and_then(|(tokenizer, checkpoint)| {
                let decoder = load(&checkpoint, &self.placement)?;
                Ok(OpenModel { decoder, tokenizer })
            }),
            (Err(error), _) => Err(error),
        };
        opened.with_context(|| format!("model `{}`", input.reference.name))
    }

    /// The files of the model that `key` of the stage names; `None` for a random one.
    pub fn stored(&self, stage: &PlannedStage, key: &str) -> Result<Option<StoredModel>> {
        let input = self.input(stage, key)?;
        match &input.origin {
            Origin::Stage(_) => {
                let maker = self
                    .made_by(&input.origin)
                    .context("a stage of this recipe")?;
                Ok(Some(StoredModel {
                    checkpoint: adapter::open(&maker.directory.join("model"))?,
                    borrowed: None,
                }))
            }
            Origin::Model(name) => {
                let model = &self.recipe.models[name];
                let Some(path) = self.models.get(name) else {
                    return Ok(None);
                };
                let checkpoint = adapter::open_with(path, model.adapter.as_deref())?;
                let borrowed = match &model.tokenizer {
                    Some(other) => Some(self.tokenizer_of(other)?),
                    None => None,
                };
                if let Some(tokenizer) = &borrowed {
                    check_fit(path, tokenizer, checkpoint.config().vocab_size)?;
                }
                Ok(Some(StoredModel {
                    checkpoint,
                    borrowed,
                }))
            }
            Origin::Data(name) => bail!("`{name}` is data, not a model"),
            Origin::Targets(path) => bail!("{} is no model", path.display()),
        }
    }

    fn open_random(&self, name: &str) -> Result<OpenModel> {
        let model = &self.recipe.models[name];
        let ModelSource::Random(random) = &model.source else {
            bail!("its files are not there");
        };
        let other = model.tokenizer.as_ref().context(
            "a random model has no tokenizer\nhint: add `tokenizer = \"NAME\"` with a declared model whose tokenizer it is to use",
        )?;
        let tokenizer = self.tokenizer_of(other)?;
        let mut config = random.decoder_config()?;
        // What the recipe leaves open is the tokenizer's to say, not the family's habit.
        let said = |key: &str| random.config.contains_key(key);
        if !said("eos_token_id") {
            config.eos_token_ids = tokenizer.eos_ids().to_vec();
        }
        if !said("bos_token_id") {
            config.bos_token_id = tokenizer.bos_id();
        }
        if !said("pad_token_id") {
            config.pad_token_id = tokenizer.pad_id();
        }
        check_fit(
            Path::new("the recipe's `config`"),
            &tokenizer,
            config.vocab_size,
        )?;
        Ok(OpenModel {
            decoder: random_decoder(&config, &self.placement, random.seed),
            tokenizer,
        })
    }

    /// The same model to be exported: what is stored is not unpacked.
    pub fn open_to_export(&self, stage: &PlannedStage, key: &str) -> Result<ExportSource> {
        let input = self.input(stage, key)?;
        let opened = match (self.stored(stage, key), &input.origin) {
            (Ok(None), Origin::Model(name)) => self.open_random(name).map(|opened| ExportSource {
                weights: Weights::Made(Box::new(opened.decoder)),
                tokenizer: Some(opened.tokenizer),
            }),
            (Ok(None), _) => bail!("`{}` is not a model", input.reference.name),
            (Ok(Some(stored)), _) => stored.into_export(),
            (Err(error), _) => Err(error),
        };
        opened.with_context(|| format!("model `{}`", input.reference.name))
    }

    /// The tokenizer that the stage's remote teacher is said to have.
    pub fn tokenizer_of_remote(&self, stage: &PlannedStage) -> Result<Tokenizer> {
        Ok(self.tokenizer_and_context(self.teacher_input(stage)?)?.0)
    }

    /// The tokenizer that a remote model is said to have, and the context of the model that lends it.
    pub fn tokenizer_and_context(&self, remote: &Input) -> Result<(Tokenizer, usize)> {
        let name = &remote.reference.name;
        let model = self.recipe.models.get(name);
        let other = model.and_then(|model| model.tokenizer.as_ref());
        let other = other.context(
            "a remote model has no tokenizer here\nhint: add `tokenizer = \"NAME\"` with a declared model whose tokenizer is the same",
        )?;
        let lender = self.lender(other);
        let found = lender.and_then(|lender| {
            let context = lender.config().max_position_embeddings;
            Ok((load_tokenizer(&lender)?, context))
        });
        found.with_context(|| format!("model `{name}`"))
    }

    fn tokenizer_of(&self, name: &str) -> Result<Tokenizer> {
        Ok(load_tokenizer(&self.lender(name)?)?)
    }

    /// A model that lends its tokenizer.
    fn lender(&self, name: &str) -> Result<Checkpoint> {
        let path = self
            .models
            .get(name)
            .with_context(|| format!("`{name}` is a random model: it has no tokenizer to lend"))?;
        adapter::open(path)
    }

    /// Leaves a model in the stage's directory, with the codes of its layers and how they came about if it has any.
    pub fn save_model(
        &self,
        stage: &PlannedStage,
        decoder: &Decoder,
        tokenizer: &Tokenizer,
        codes: Option<&(Value, Layers)>,
    ) -> Result<()> {
        let _phase = phase!("write the model");
        let staged = StagedDirectory::new(&place_of_result(stage)?)?;
        save_decoder(decoder, &staged, WeightDtype::F32)?;
        tokenizer.save(staged.path())?;
        if let Some((method, layers)) = codes {
            write_quantization(&staged, method, layers)?;
        }
        Ok(staged.commit()?)
    }
}

/// Training changes weights: its result is no quantised model.
fn warn_of_quantization(checkpoint: &Checkpoint) {
    if let Some(quantization) = checkpoint.quantization() {
        let (path, method) = (checkpoint.path().display(), &quantization.method()["kind"]);
        tracing::warn!(
            "{path}: quantised by {method}; training starts from the values of its codes, and leaves codes and the rounding of activations behind"
        );
    }
}

/// Where a stage leaves its model. A stage that is not done has no whole result: what stands there is from a run that
/// was killed.
pub fn place_of_result(stage: &PlannedStage) -> Result<PathBuf> {
    let target = stage.directory.join("model");
    if target.exists() {
        fs::remove_dir_all(&target)
            .with_context(|| format!("cannot remove {}", target.display()))?;
    }
    Ok(target)
}

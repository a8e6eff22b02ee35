//! Models as stages take them in and leave them behind.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use datasets::tokenizer::Tokenizer;
use model::build::Placement;
use model::decoder::Decoder;
use model::load::{load_decoder, load_frozen_decoder, random_decoder, save_decoder};
use model::phase;
use model::weights::checkpoint::Checkpoint;
use model::weights::dtype::WeightDtype;
use model::weights::error::WeightsError;
use model::weights::staged_directory::StagedDirectory;
use teacher::tokenizer::{check_fit, load_tokenizer, optional_tokenizer};

use super::Chain;
use crate::export::{ExportSource, Weights};
use crate::plan::PlannedStage;
use crate::recipe::Origin;
use crate::source::{ModelSource, RandomModel};

/// How a checkpoint becomes a decoder.
type Load = fn(&Checkpoint, &Placement) -> Result<Decoder, WeightsError>;

/// A model with the tokenizer that its ids belong to.
pub struct OpenModel {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

impl Chain<'_> {
    /// The model that `key` of the stage names, on the run's device, to be read only.
    pub fn open_model(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        self.open(stage, key, load_frozen_decoder)
    }

    /// The model that `key` of the stage names, to be trained.
    pub fn open_trainable(&self, stage: &PlannedStage, key: &str) -> Result<OpenModel> {
        self.open(stage, key, load_decoder)
    }

    fn open(&self, stage: &PlannedStage, key: &str, load: Load) -> Result<OpenModel> {
        let _phase = phase!("open models");
        let input = self.input(stage, key)?;
        let name = &input.reference.name;
        let opened = match &input.origin {
            Origin::Stage(_) => {
                let maker = self
                    .made_by(&input.origin)
                    .context("a stage of this recipe")?;
                self.open_path(&maker.directory.join("model"), load)
            }
            Origin::Model(name) => self.open_declared(name, load),
            Origin::Data(_) => bail!("`{name}` is data, not a model"),
        };
        opened.with_context(|| format!("model `{name}`"))
    }

    fn open_declared(&self, name: &str, load: Load) -> Result<OpenModel> {
        let model = &self.recipe.models[name];
        let tokenizer = match &model.tokenizer {
            Some(other) => Some(self.tokenizer_of(other)?),
            None => None,
        };
        match &model.source {
            ModelSource::Stored(_) => {
                let mut opened = self.open_path(&self.models[name], load)?;
                if let Some(tokenizer) = tokenizer {
                    check_fit(
                        &self.models[name],
                        &tokenizer,
                        opened.decoder.config.vocab_size,
                    )?;
                    opened.tokenizer = tokenizer;
                }
                Ok(opened)
            }
            ModelSource::Random(random) => self.open_random(random, tokenizer),
        }
    }

    fn open_random(&self, random: &RandomModel, tokenizer: Option<Tokenizer>) -> Result<OpenModel> {
        let tokenizer = tokenizer.context(
            "a random model has no tokenizer\nhint: add `tokenizer = \"NAME\"` with a declared model whose tokenizer it is to use",
        )?;
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
        let name = &input.reference.name;
        let stored = |path: &Path| -> Result<ExportSource> {
            let checkpoint = Checkpoint::open(path)?;
            // One that does not fit is refused; without one a model is exported with a warning.
            optional_tokenizer(&checkpoint)?;
            Ok(ExportSource {
                weights: Weights::Stored(Box::new(checkpoint)),
                tokenizer: None,
            })
        };
        let opened = match &input.origin {
            Origin::Stage(_) => {
                let maker = self
                    .made_by(&input.origin)
                    .context("a stage of this recipe")?;
                stored(&maker.directory.join("model"))
            }
            Origin::Model(name) => {
                match (self.models.get(name), &self.recipe.models[name].tokenizer) {
                    (Some(path), None) => stored(path),
                    (Some(path), Some(other)) => self.tokenizer_of(other).and_then(|tokenizer| {
                        let source = stored(path)?;
                        check_fit(path, &tokenizer, source.config().vocab_size)?;
                        let tokenizer = Some(tokenizer);
                        Ok(ExportSource {
                            tokenizer,
                            ..source
                        })
                    }),
                    (None, _) => {
                        self.open_declared(name, load_frozen_decoder)
                            .map(|opened| ExportSource {
                                weights: Weights::Made(Box::new(opened.decoder)),
                                tokenizer: Some(opened.tokenizer),
                            })
                    }
                }
            }
            Origin::Data(name) => bail!("`{name}` is data, not a model"),
        };
        opened.with_context(|| format!("model `{name}`"))
    }

    fn open_path(&self, path: &Path, load: Load) -> Result<OpenModel> {
        let checkpoint = Checkpoint::open(path)?;
        Ok(OpenModel {
            tokenizer: load_tokenizer(&checkpoint)?,
            decoder: load(&checkpoint, &self.placement)?,
        })
    }

    fn tokenizer_of(&self, name: &str) -> Result<Tokenizer> {
        let path = self
            .models
            .get(name)
            .with_context(|| format!("`{name}` is a random model: it has no tokenizer to lend"))?;
        Ok(load_tokenizer(&Checkpoint::open(path)?)?)
    }

    /// Leaves a model in the stage's directory.
    pub fn save_model(
        &self,
        stage: &PlannedStage,
        decoder: &Decoder,
        tokenizer: &Tokenizer,
    ) -> Result<()> {
        let target = stage.directory.join("model");
        if target.exists() {
            // A stage that is not done has no whole result: this one is from a run that was killed.
            fs::remove_dir_all(&target)
                .with_context(|| format!("cannot remove {}", target.display()))?;
        }
        write_model(&target, decoder, tokenizer, WeightDtype::F32)
    }
}

/// Writes a Hugging Face directory with weights, configuration and tokenizer, whole or not at all.
pub fn write_model(
    target: &Path,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    dtype: WeightDtype,
) -> Result<()> {
    let _phase = phase!("write the model");
    let staged = StagedDirectory::new(target)?;
    save_decoder(decoder, &staged, dtype)?;
    tokenizer.save(staged.path())?;
    staged.commit()?;
    Ok(())
}

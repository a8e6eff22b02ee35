//! What is known of a recipe's models and data without loading them: shapes from headers, sizes of files.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use datasets::config::DataConfig;
use evals::text_size::TextSize;

use super::data_facts::DataFacts;
use super::evaluated;
use super::made_data::made_data;
use super::shape::{LoraShape, ModelShape};
use super::trained::Trained;
use crate::recipe::{Action, DataMix, Input, Origin, Recipe};
use crate::source::{Cache, ModelSource, Source};

/// A thing, or why it is not known and what would tell it.
pub type Known<T> = Result<T, String>;

pub struct Facts<'a> {
    recipe: &'a Recipe,
    models: BTreeMap<&'a str, Known<ModelShape>>,
    /// What the stages make, in their order, where that is a model.
    made: Vec<Known<ModelShape>>,
    files: BTreeMap<&'a str, Known<DataConfig<PathBuf>>>,
    read: Rc<Read>,
    /// Of each stage, worked out when it is first asked for: what trains, and the data it makes, as samples and as pairs.
    trained: Vec<OnceCell<Known<Trained>>>,
    made_data: Vec<[OnceCell<Known<DataFacts>>; 2]>,
}

/// What is read when it is first asked for, and then kept.
struct Read {
    /// As samples, and as pairs.
    data: BTreeMap<String, [OnceCell<Known<DataFacts>>; 2]>,
    /// Of each stage.
    texts: Vec<OnceCell<Known<TextSize>>>,
}

impl<'a> Facts<'a> {
    /// Looks at what is on this machine, and at nothing else unless `fetch` says so.
    pub fn new(recipe: &'a Recipe, cache: &Cache, fetch: bool) -> Self {
        let models = models_of(recipe, cache, fetch);
        let files = recipe.data.iter().map(|(name, config)| {
            let path = local(&config.source, cache, fetch);
            (name.as_str(), path.map(|path| config.with_source(path)))
        });
        let names = recipe.data.keys();
        let read = Read {
            data: (names.map(|name| (name.clone(), Default::default()))).collect(),
            texts: vec![OnceCell::new(); recipe.stages.len()],
        };
        Self::with_models(recipe, models, files.collect(), Rc::new(read))
    }

    /// Of the same recipe with other models and settings: data is not read again.
    pub fn changed<'b>(&self, recipe: &'b Recipe, cache: &Cache) -> Facts<'b> {
        let files = recipe.data.keys().filter_map(|name| {
            let files = self.files.get(name.as_str())?;
            Some((name.as_str(), files.clone()))
        });
        let models = models_of(recipe, cache, false);
        Facts::with_models(recipe, models, files.collect(), self.read.clone())
    }

    fn with_models(
        recipe: &'a Recipe,
        models: BTreeMap<&'a str, Known<ModelShape>>,
        files: BTreeMap<&'a str, Known<DataConfig<PathBuf>>>,
        read: Rc<Read>,
    ) -> Self {
        let mut facts = Self {
            recipe,
            models,
            made: Vec::new(),
            files,
            read,
            trained: recipe.stages.iter().map(|_| OnceCell::new()).collect(),
            made_data: recipe.stages.iter().map(|_| Default::default()).collect(),
        };
        for (name, model) in &recipe.models {
            let lender = model
                .tokenizer
                .as_ref()
                .and_then(|other| facts.models.get(other.as_str()));
            let lent = lender.and_then(|lender| {
                let lender = lender.as_ref().ok()?;
                Some((lender.gguf_tokenizer, lender.template))
            });
            if let (Some(lent), Some(Ok(shape))) = (lent, facts.models.get_mut(name.as_str())) {
                (shape.gguf_tokenizer, shape.template) = lent;
            }
        }
        for stage in 0..recipe.stages.len() {
            let made = facts.made_by(stage);
            facts.made.push(made);
        }
        facts
    }

    fn input(&self, stage: usize, key: &str) -> Option<&'a Input> {
        let mut inputs = self.recipe.inputs[stage].iter();
        inputs.find(|input| input.reference.key == key)
    }

    /// The model that `key` of a stage names.
    pub fn model(&self, stage: usize, key: &str) -> Known<ModelShape> {
        let Some(input) = self.input(stage, key) else {
            return Err(format!("`{key}` names no model"));
        };
        let known = match &input.origin {
            Origin::Model(name) => self.models.get(name.as_str()).cloned(),
            Origin::Stage(maker) => self.made.get(*maker).cloned(),
            Origin::Data(_) | Origin::Targets(_) => None,
        };
        let shape = known.unwrap_or_else(|| Err("it is no model".into()));
        shape.map_err(|reason| format!("`{}`: {reason}", input.reference.name))
    }

    /// Whether `key` of a stage names a model that is drawn at random.
    pub fn is_random(&self, stage: usize, key: &str) -> bool {
        (self.input(stage, key)).is_some_and(|input| match &input.origin {
            Origin::Model(name) => {
                matches!(self.recipe.models[name].source, ModelSource::Random(_))
            }
            _ => false,
        })
    }

    /// The models that the recipe declares, by name, where their shapes are known.
    pub fn models(&self) -> impl Iterator<Item = (&'a str, &ModelShape)> {
        let known = self.models.iter();
        known.filter_map(|(name, shape)| Some((*name, shape.as_ref().ok()?)))
    }

    /// The models that a stage uses on this machine, as far as their shapes are known.
    pub fn models_of_stage(&self, stage: usize) -> impl Iterator<Item = ModelShape> {
        let keys = self.recipe.inputs[stage].iter();
        keys.filter_map(move |input| self.model(stage, &input.reference.key).ok())
    }

    /// The model that a stage makes.
    pub fn made(&self, stage: usize) -> Known<ModelShape> {
        self.made[stage].clone()
    }

    /// The data that `key` of a stage names: a recipe's, or what an earlier stage will make.
    pub fn data(&self, stage: usize, key: &str) -> Known<DataFacts> {
        let pairs = matches!(self.recipe.stages[stage].action, Action::Dpo(_));
        self.data_as(stage, key, pairs)
    }

    /// The same, as pairs or as samples.
    pub fn data_as(&self, stage: usize, key: &str, pairs: bool) -> Known<DataFacts> {
        match self.input(stage, key).map(|input| &input.origin) {
            Some(Origin::Data(name)) => {
                let name = name.as_str();
                let files = self.files[name].as_ref().map_err(Clone::clone);
                let facts = self.read.data[name][usize::from(pairs)]
                    .get_or_init(|| files.and_then(|files| DataFacts::of(files, pairs)))
                    .clone();
                facts.map_err(|reason| format!("`{name}`: {reason}"))
            }
            Some(Origin::Stage(maker)) => {
                let made = || made_data(self.recipe, self, *maker, pairs);
                let kept = &self.made_data[*maker][usize::from(pairs)];
                kept.get_or_init(made).clone()
            }
            _ => Err(format!("`{key}` names no data")),
        }
    }

    /// The models, the losses and the rows of a stage that trains.
    ///
    /// # Errors
    /// What is not known, and what would tell it; a stage that trains nothing.
    pub fn trained(&self, stage: usize) -> Known<&Trained> {
        let of_stage = || Trained::of(self.recipe, self, stage);
        let trained = self.trained[stage].get_or_init(of_stage);
        trained.as_ref().map_err(Clone::clone)
    }

    /// All data of a mixture together, as an epoch draws from it.
    pub fn mixture(&self, stage: usize, mix: &DataMix) -> Known<DataFacts> {
        let weights = mix.0.iter().map(|share| share.weight);
        let parts = mix.names().zip(weights);
        let parts = parts.map(|((key, _), weight)| Ok((self.data(stage, &key)?, weight)));
        Ok(DataFacts::mixed(&parts.collect::<Known<Vec<_>>>()?))
    }

    /// Where the data is that `key` of a stage names, and how it is read; only what the recipe declares has a place yet.
    pub fn files(&self, stage: usize, key: &str) -> Known<&DataConfig<PathBuf>> {
        match self.input(stage, key).map(|input| &input.origin) {
            Some(Origin::Data(name)) => self.files[name.as_str()].as_ref().map_err(Clone::clone),
            _ => Err(format!("`{key}` is not there yet")),
        }
    }

    /// What a stage has read of questions with choices or written answers.
    ///
    /// # Errors
    /// Questions that are not here, too large to be read for a plan, or broken; a stage that asks none.
    pub fn texts(&self, stage: usize) -> Known<&TextSize> {
        let read = || evaluated::texts(self.recipe, self, stage);
        let texts = self.read.texts[stage].get_or_init(read);
        texts.as_ref().map_err(Clone::clone)
    }

    fn made_by(&self, stage: usize) -> Known<ModelShape> {
        let action = &self.recipe.stages[stage].action;
        match action {
            Action::Prune(prune) => {
                let model = self.model(stage, "model")?;
                let layers = model.config.num_hidden_layers;
                let keep = prune.keep_layers.as_ref();
                let kept = keep.map_or(Ok(layers), |keep| keep.count_of(layers));
                let kept = kept.map_err(|beyond| beyond.message)?;
                Ok(model.cut(|config| {
                    config.num_hidden_layers = kept;
                    if let Some(narrower) = &prune.ffn_width {
                        config.intermediate_size = narrower.keep.of(config.intermediate_size);
                    }
                }))
            }
            Action::Gqa(gqa) => {
                let model = self.model(stage, "model")?;
                let heads = model.config.num_key_value_heads;
                match gqa.kv_heads > 0 && heads.is_multiple_of(gqa.kv_heads) {
                    true => Ok(model.cut(|config| config.num_key_value_heads = gqa.kv_heads)),
                    false => Err(format!("`kv_heads` must divide the {heads} of the model")),
                }
            }
            Action::Quantize(_) => Ok(self.model(stage, "model")?.cut(|_| {})),
            Action::Sft(_) | Action::Distill(_) | Action::Dpo(_) => {
                let key = student_key(action);
                let lora = lora_of(action);
                Ok(self.model(stage, key)?.trained(lora.as_ref()))
            }
            _ => Err("it is no model".into()),
        }
    }
}

/// Where a source is on this machine; got only where `fetch` says so.
fn local(source: &Source, cache: &Cache, fetch: bool) -> Known<PathBuf> {
    match fetch {
        true => source.resolve(cache).map_err(|error| error.to_string()),
        false => source.kept(cache).ok_or_else(|| {
            let says = "it is not on this machine yet: `--fetch` or a first run gets it";
            says.to_string()
        }),
    }
}

fn models_of<'r>(
    recipe: &'r Recipe,
    cache: &Cache,
    fetch: bool,
) -> BTreeMap<&'r str, Known<ModelShape>> {
    let models = recipe.models.iter().map(|(name, model)| {
        let shape = match &model.source {
            ModelSource::Stored(source) => local(source, cache, fetch).and_then(|path| {
                let opened = ModelShape::open(&path, model.adapter.as_deref());
                let opened = opened.map_err(|error| format!("{error:#}"))?;
                Ok(ModelShape {
                    held_as: model.held_as,
                    ..opened
                })
            }),
            ModelSource::Random(random) => (random.decoder_config())
                .map(ModelShape::dense)
                .map_err(|error| error.to_string()),
            ModelSource::Remote(_) => Err("it is behind a server".to_string()),
        };
        (name.as_str(), shape)
    });
    models.collect()
}

/// The key of the model that a training stage changes.
pub fn student_key(action: &Action) -> &'static str {
    match action {
        Action::Distill(_) => "student",
        _ => "model",
    }
}

/// The adapter that a training stage trains.
pub fn lora_of(action: &Action) -> Option<LoraShape> {
    let trainer::adapter::Adapter::Lora(lora) = action.training()?.adapter.as_ref()?;
    Some(LoraShape::of(lora))
}

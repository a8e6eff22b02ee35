//! What is known of a recipe's models and data without loading them: shapes from headers, sizes of files.

use std::collections::BTreeMap;
use std::path::Path;

use datasets::read::read_prompts;
use datasets::sample::Sample;

use super::shape::{LoraShape, ModelShape};
use crate::recipe::{Action, KeepLayers, Origin, Recipe};
use crate::source::{Cache, ModelSource, Source};

/// Files up to this size are read to count what is in them.
const READ_AT_MOST: u64 = 4 << 20;
/// Bytes of text a token, about: English in vocabularies of 30 to 150 thousand tokens.
pub const BYTES_PER_TOKEN: f64 = 4.0;

/// A thing, or why it is not known and what would tell it.
pub type Known<T> = Result<T, String>;

pub struct Facts<'a> {
    recipe: &'a Recipe,
    models: BTreeMap<&'a str, Known<ModelShape>>,
    /// What the stages make, in their order, where that is a model.
    made: Vec<Known<ModelShape>>,
    data: BTreeMap<&'a str, Known<DataFacts>>,
}

/// How much a data set holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataFacts {
    pub bytes: u64,
    /// Where the file was read.
    pub samples: Option<u64>,
    /// Of the text alone, and of what is learned of it.
    pub text_bytes: Option<u64>,
    pub learned_bytes: Option<u64>,
}

impl DataFacts {
    /// Estimated from the bytes.
    pub fn tokens(&self) -> u64 {
        (self.text_bytes.unwrap_or(self.bytes) as f64 / BYTES_PER_TOKEN) as u64
    }

    /// The share of the tokens that is learned; all where it is not known.
    pub fn learned_share(&self) -> f64 {
        match (self.learned_bytes, self.text_bytes) {
            (Some(learned), Some(all)) if all > 0 => learned as f64 / all as f64,
            _ => 1.0,
        }
    }
}

impl<'a> Facts<'a> {
    /// Looks at what is on this machine, and at nothing else unless `fetch` says so.
    pub fn new(recipe: &'a Recipe, cache: &Cache, fetch: bool) -> Self {
        let local = |source: &Source| match fetch {
            true => source.resolve(cache).map_err(|error| error.to_string()),
            false => source.kept(cache).ok_or_else(|| {
                let says = "it is not on this machine yet: `--fetch` or a first run gets it";
                says.to_string()
            }),
        };
        let models = recipe.models.iter().map(|(name, model)| {
            let shape = match &model.source {
                ModelSource::Stored(source) => local(source).and_then(|path| {
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
        let data = recipe.data.iter().map(|(name, config)| {
            let facts = local(&config.source).and_then(|path| {
                let bytes = size_of(&path).map_err(|error| error.to_string())?;
                let config = config.with_source(path);
                let read = (bytes <= READ_AT_MOST).then(|| read_prompts(&config).ok());
                let read = read.flatten().map(|read| read.samples);
                let sums = read.as_ref().map(|samples| {
                    let sizes = samples.iter().map(sample_bytes);
                    sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
                });
                Ok(DataFacts {
                    bytes,
                    samples: (read.map(|samples| samples.len() as u64))
                        .or(config.limit.map(|limit| limit as u64)),
                    text_bytes: sums.map(|(all, _)| all),
                    learned_bytes: sums.map(|(_, learned)| learned),
                })
            });
            (name.as_str(), facts)
        });
        let mut facts = Self {
            recipe,
            models: models.collect(),
            made: Vec::new(),
            data: data.collect(),
        };
        for (name, model) in &recipe.models {
            let lender = model
                .tokenizer
                .as_ref()
                .and_then(|other| facts.models.get(other.as_str()));
            let lent = lender.and_then(|lender| Some(lender.as_ref().ok()?.gguf_tokenizer));
            if let (Some(lent), Some(Ok(shape))) = (lent, facts.models.get_mut(name.as_str())) {
                shape.gguf_tokenizer = lent;
            }
        }
        for stage in 0..recipe.stages.len() {
            let made = facts.made_by(stage);
            facts.made.push(made);
        }
        facts
    }

    /// The model that `key` of a stage names.
    pub fn model(&self, stage: usize, key: &str) -> Known<ModelShape> {
        let input = (self.recipe.inputs[stage].iter()).find(|input| input.reference.key == key);
        let Some(input) = input else {
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

    /// The models that the recipe declares, by name, where their shapes are known.
    pub fn models(&self) -> impl Iterator<Item = (&'a str, &ModelShape)> {
        let known = self.models.iter();
        known.filter_map(|(name, shape)| Some((*name, shape.as_ref().ok()?)))
    }

    /// The model that a stage makes.
    pub fn made(&self, stage: usize) -> Known<ModelShape> {
        self.made[stage].clone()
    }

    /// The data that `key` of a stage names: a recipe's, or what an earlier stage will make.
    pub fn data(&self, stage: usize, key: &str) -> Known<DataFacts> {
        let input = (self.recipe.inputs[stage].iter()).find(|input| input.reference.key == key);
        match input.map(|input| &input.origin) {
            Some(Origin::Data(name)) => self.data[name.as_str()].clone(),
            Some(Origin::Stage(maker)) => Err(format!(
                "stage {} makes it: how much that is shows when it has run",
                maker + 1
            )),
            _ => Err(format!("`{key}` names no data")),
        }
    }

    fn made_by(&self, stage: usize) -> Known<ModelShape> {
        let action = &self.recipe.stages[stage].action;
        match action {
            Action::Prune(prune) => {
                let model = self.model(stage, "model")?;
                let layers = model.config.num_hidden_layers;
                let kept = match &prune.keep_layers {
                    None => layers,
                    Some(KeepLayers::Every(n)) => layers.div_ceil(*n),
                    Some(KeepLayers::These(these)) => these.len(),
                    Some(KeepLayers::Best(best)) => best.count,
                };
                Ok(model.cut(|config| {
                    config.num_hidden_layers = kept;
                    if let Some(narrower) = &prune.ffn_width {
                        config.intermediate_size = narrower.keep.of(config.intermediate_size);
                    }
                }))
            }
            Action::Gqa(gqa) => {
                let model = self.model(stage, "model")?;
                Ok(model.cut(|config| config.num_key_value_heads = gqa.kv_heads))
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

/// Bytes of a sample's text, and of what is learned of it.
fn sample_bytes(sample: &Sample) -> (u64, u64) {
    let [all, learned] = match sample {
        Sample::Text(text) => [text.len(); 2],
        Sample::Completion { prompt, completion } => {
            [prompt.len() + completion.len(), completion.len()]
        }
        Sample::Conversation(turns) => {
            let bytes = |only: Option<&str>| -> usize {
                let turns = turns.iter();
                let wanted = turns.filter(|turn| only.is_none_or(|role| turn.role == role));
                wanted.map(|turn| turn.content.len()).sum()
            };
            [bytes(None), bytes(Some("assistant"))]
        }
    };
    (all as u64, learned as u64)
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

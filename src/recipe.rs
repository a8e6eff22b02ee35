//! A recipe: named models, named data and a chain of stages, read strictly from TOML.
//!
//! Reading touches neither a device nor the network. Everything wrong is reported at once, each
//! with its place, the accepted names and a hint.

mod capture;
mod code_quality;
mod consistency;
mod data;
mod distill;
mod document;
mod dpo;
mod eval;
mod exercises;
mod export;
mod ffn_width;
mod filter;
mod generate;
mod gqa;
mod invalid;
mod judge;
mod keep_layers;
mod lookup;
mod names;
mod overrides;
mod problem;
mod prune;
mod quantize;
mod rate;
mod read;
mod secret;
mod sft;
mod shape;
mod stage;
mod subjects;
mod written;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use model::linear::lora::BaseForm;
use model::weights::peft::PeftAdapter;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Error as _;
use thiserror::Error;

pub use capture::{Capture, CaptureFrom};
pub use code_quality::{CodeQuality, ColumnLabels};
pub use data::DataMix;
pub use datasets::config::DataConfig;
pub use distill::{AskedTeacher, Distill, TeacherChoice};
pub use document::RecipeError;
pub use dpo::Dpo;
pub use eval::{Answers, Drafts, Eval, Measure, Subjects, Task, Windows};
pub use exercises::Exercises;
pub use export::{Export, ExportFormat, ExportTo, FloatType, Verify};
pub use ffn_width::FfnWidth;
pub use filter::{Decontaminate, Dedup, Filter, sandbox_of};
pub use generate::{Generate, Mode};
pub use gqa::Gqa;
pub use judge::Judge;
pub use keep_layers::KeepLayers;
pub use lookup::text_of_key;
pub use names::{Input, Origin};
pub use problem::closest;
pub use prune::Prune;
pub use quantize::{Activations, Calibration, Quantize, QuantizeMethod};
pub use rate::{Keep, Rate};
pub use read::KIND;
pub use secret::masked;
pub use sft::Sft;
pub use stage::{Action, Stage, Thing};

use crate::source::{ModelSource, Source};
use document::{Document, Node, Value};
use problem::Problem;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Where it is: a path to a directory or a GGUF file, hf:org/name, hf:org/name/FILE.gguf, or a table.
    pub source: ModelSource,
    /// The declared model whose tokenizer this one uses. Its own when left out.
    pub tokenizer: Option<String>,
    /// The directory of an adapter, as PEFT stores it.
    pub adapter: Option<PathBuf>,
    /// How its matrices are held where it is only read: as a teacher, as a reference, in evaluations. As stored when left out.
    pub held_as: Option<BaseForm>,
}

pub struct Recipe {
    pub path: PathBuf,
    /// The file's name without its extension: what the run's directory is called.
    pub name: String,
    pub seed: u64,
    pub models: BTreeMap<String, ModelConfig>,
    pub data: BTreeMap<String, DataConfig<Source>>,
    pub stages: Vec<Stage>,
    /// What each stage uses, in the order of [`Action::references`].
    pub inputs: Vec<Vec<Input>>,
    pub presets: Vec<String>,
    document: Document,
    root: Node,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read the recipe {}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}", shown(.0))]
    Invalid(Vec<RecipeError>),
}

fn shown(errors: &[RecipeError]) -> String {
    let texts: Vec<String> = errors.iter().map(RecipeError::to_string).collect();
    texts.join("\n\nerror: ")
}

impl Recipe {
    pub fn load(path: &Path, preset: Option<&str>, sets: &[String]) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(path, &text, preset, sets)
    }

    pub fn parse(
        path: &Path,
        text: &str,
        preset: Option<&str>,
        sets: &[String],
    ) -> Result<Self, LoadError> {
        let mut document = Document::default();
        let label = path.display().to_string();
        let overlaid = overlay(&mut document, &label, text, preset, sets);
        let (root, presets) = match overlaid {
            Ok(read) => read,
            Err(problem) => return Err(LoadError::Invalid(vec![document.error(problem)])),
        };
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let mut recipe = Self {
            path: path.to_path_buf(),
            name: stem.unwrap_or_else(|| "recipe".to_string()),
            seed: 0,
            models: BTreeMap::new(),
            data: BTreeMap::new(),
            stages: Vec::new(),
            inputs: Vec::new(),
            presets,
            document,
            root,
        };
        let mut problems = recipe.read_sections();
        if problems.is_empty() {
            problems = recipe.check_values();
            match names::resolve(&recipe) {
                Ok(inputs) => recipe.inputs = inputs,
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            return Ok(recipe);
        }
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let bound = problems.into_iter().map(|p| recipe.document.error(p));
        Err(LoadError::Invalid(bound.collect()))
    }

    /// Reads the sections one by one, so that an error in one does not hide those of the others.
    fn read_sections(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Value::Table(sections) = &self.root.value else {
            return problems;
        };
        for section in sections {
            let node = &section.node;
            match (section.key.as_str(), &node.value) {
                ("seed", _) => keep(read::read(node), &mut problems, |seed| self.seed = seed),
                ("models", Value::Table(models)) => {
                    for model in models {
                        keep(read::read(&model.node), &mut problems, |config| {
                            self.models.insert(model.key.clone(), config);
                        });
                    }
                }
                ("data", Value::Table(data)) => {
                    for item in data {
                        keep(read::read(&item.node), &mut problems, |config| {
                            self.data.insert(item.key.clone(), config);
                        });
                    }
                }
                ("stage", Value::Array(stages)) => {
                    for stage in stages {
                        keep(Stage::read(stage), &mut problems, |s| self.stages.push(s));
                    }
                }
                ("models" | "data", _) => {
                    let message = format!("`{0}` is written [{0}.NAME]", section.key);
                    problems.push(Problem::new(message).at(node.span.clone()));
                }
                ("stage", _) => {
                    let message = "a stage is written [[stage]], in double brackets";
                    problems.push(Problem::new(message).at(node.span.clone()));
                }
                (other, _) => problems.push(
                    Problem::new(format!("unknown key `{other}`"))
                        .accepting(other, ["seed", "models", "data", "stage", "preset"])
                        .at(section.key_span.clone()),
                ),
            }
        }
        if problems.is_empty() && self.stages.is_empty() {
            let problem = Problem::new("this recipe has no stages: there is nothing to do");
            problems.push(problem.hint("add one: [[stage]] and below it kind = \"distill\""));
        }
        problems
    }

    fn check_values(&self) -> Vec<Problem> {
        let stages = self.stages.iter().enumerate();
        let in_stages = stages.flat_map(|(at, stage)| {
            let invalid = stage.action.check().into_iter();
            invalid.map(move |invalid| invalid.under(&stage_path(at)))
        });
        let sources = (self.models.iter())
            .map(|(name, model)| (format!("models.{name}"), model.source.check()))
            .chain(
                (self.data.iter())
                    .map(|(name, data)| (format!("data.{name}"), data.source.check())),
            );
        let in_sources = sources.flat_map(|(parent, checked)| {
            checked.err().map(|error| {
                let path = format!("{parent}.source");
                Problem::custom(error).at(self.locate(&path))
            })
        });
        let adapters = self.models.iter().filter_map(|(name, model)| {
            let adapter = model.adapter.as_ref()?;
            let problem = match &model.source {
                ModelSource::Random(_) => "a random model takes no adapter".to_string(),
                ModelSource::Remote(_) => "a remote model takes no adapter".to_string(),
                ModelSource::Stored(_) if !PeftAdapter::is_at(adapter) => {
                    format!("`{}` holds no adapter_config.json", adapter.display())
                }
                ModelSource::Stored(_) => return None,
            };
            Some(invalid::Invalid::new(
                format!("models.{name}.adapter"),
                problem,
            ))
        });
        let forms = self.models.iter().filter_map(|(name, model)| {
            model.held_as?;
            let problem = match &model.source {
                ModelSource::Random(_) => "a random model has no other form than its own",
                ModelSource::Remote(_) => "a remote model is held by its server",
                ModelSource::Stored(_) => return None,
            };
            Some(invalid::Invalid::new(
                format!("models.{name}.held_as"),
                problem,
            ))
        });
        let in_data = self
            .data
            .iter()
            .flat_map(|(name, data)| data_problems(name, data));
        let remotes = self
            .models
            .iter()
            .flat_map(|(name, model)| remote_problems(name, model));
        (in_stages
            .chain(in_data)
            .chain(adapters)
            .chain(forms)
            .chain(remotes)
            .chain(self.contradictions()))
        .map(|invalid| Problem {
            span: Some(self.locate(&invalid.key)),
            message: invalid.message,
            accepted: Vec::new(),
            hint: invalid.hint,
        })
        .chain(in_sources)
        .collect()
    }

    fn locate(&self, path: &str) -> Range<usize> {
        self.root.locate(path)
    }

    /// `FILE:LINE` of a stage's key.
    pub fn line_of_key(&self, stage: usize, key: &str) -> Option<String> {
        self.line_of(&format!("{}.{key}", stage_path(stage)))
    }

    fn line_of(&self, path: &str) -> Option<String> {
        self.document.line_of(&self.locate(path))
    }
}

fn overlay(
    document: &mut Document,
    label: &str,
    text: &str,
    preset: Option<&str>,
    sets: &[String],
) -> Result<(Node, Vec<String>), Problem> {
    let mut root = document.parse(label, text)?;
    let presets = overrides::take_presets(&mut root)?;
    if let Some(name) = preset {
        overrides::apply_preset(&mut root, &presets, name)?;
    }
    for flag in sets {
        overrides::apply_set(&mut root, document, flag)?;
    }
    Ok((root, presets.into_iter().map(|preset| preset.key).collect()))
}

fn remote_problems(name: &str, model: &ModelConfig) -> Vec<invalid::Invalid> {
    let ModelSource::Remote(remote) = &model.source else {
        return Vec::new();
    };
    let wrong = remote.check().into_iter();
    wrong
        .map(|(key, says)| invalid::Invalid::new(format!("models.{name}.source.{key}"), says))
        .collect()
}

fn data_problems(name: &str, data: &DataConfig<Source>) -> Vec<invalid::Invalid> {
    let wrong = data.check(data.source.file_name()).into_iter();
    let mut found: Vec<invalid::Invalid> = wrong
        .map(|(key, says)| invalid::Invalid::new(format!("data.{name}.{key}"), says))
        .collect();
    if let Source::HuggingFace(hub) = &data.source
        && !hub.is_data
        && hub.file.is_none()
    {
        let says = format!("`{hub}` is a model, data is wanted here");
        let hint = format!("write hf:datasets/{}/FILE", hub.repo);
        found.push(invalid::Invalid::new(format!("data.{name}.source"), says).hint(hint));
    }
    found
}

fn keep<T>(read: Result<T, Problem>, problems: &mut Vec<Problem>, store: impl FnOnce(T)) {
    match read {
        Ok(value) => store(value),
        Err(problem) => problems.push(problem),
    }
}

fn stage_path(at: usize) -> String {
    format!("stage.{at}")
}

#[cfg(test)]
mod tests;

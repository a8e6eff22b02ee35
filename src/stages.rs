//! The chain at work: each stage that is not done yet runs, in order, and leaves a whole directory.
//!
//! `runs/<recipe>/<kind>-<digest>/` holds what the stage made and, written last, `stage.json`; a stage
//! with that file is done. `runs/<recipe>/lineage.json` lists the stages of the recipe as it stands.

mod corpus;
mod evaluate;
mod export;
mod importance;
mod models;
mod prune;
mod train;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use model::build::Placement;
use serde_json::{Value, json};

use crate::plan::{InputDigests, PlannedStage, data_digest, model_digest, plan};
use crate::progress::Progress;
use crate::recipe::{Action, Input, Origin, Recipe};
use crate::source::{Cache, ModelSource};

pub use evaluate::Scores;
pub use export::export_target;

/// What all stages of a run share.
pub struct Chain<'a> {
    pub recipe: &'a Recipe,
    pub stages: Vec<PlannedStage>,
    /// Local paths of the declared models that are stored somewhere.
    models: BTreeMap<String, PathBuf>,
    data: BTreeMap<String, PathBuf>,
    cache: Cache,
    placement: Placement,
    stop: &'a AtomicBool,
}

/// How a chain ended.
pub enum Ending {
    Finished,
    /// Stopped from outside; the same command goes on.
    Stopped {
        stage: usize,
        step: u64,
    },
}

impl<'a> Chain<'a> {
    /// Fetches what the recipe names and plans its stages.
    ///
    /// # Errors
    /// A source that is not there, or whose contents are not what the recipe says.
    pub fn prepare(
        recipe: &'a Recipe,
        out: &Path,
        placement: Placement,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let cache = Cache::from_env()?;
        let mut digests = InputDigests::default();
        let (mut models, mut data) = (BTreeMap::new(), BTreeMap::new());
        let mut contents = BTreeMap::new();
        for (name, model) in &recipe.models {
            if let ModelSource::Stored(source) = &model.source {
                let local = source
                    .resolve(&cache)
                    .with_context(|| format!("model `{name}`"))?;
                contents.insert(name, source.digest(&local, &cache)?);
                models.insert(name.clone(), local);
            }
        }
        for (name, model) in &recipe.models {
            let tokenizer = model
                .tokenizer
                .as_ref()
                .and_then(|other| contents.get(other));
            let digest = model_digest(model, contents.get(name), tokenizer);
            digests.models.insert(name.clone(), digest);
        }
        for (name, config) in &recipe.data {
            let local = config
                .source
                .resolve(&cache)
                .with_context(|| format!("data `{name}`"))?;
            let digest = data_digest(config, &config.source.digest(&local, &cache)?)?;
            digests.data.insert(name.clone(), digest);
            data.insert(name.clone(), local);
        }
        Ok(Self {
            recipe,
            stages: plan(recipe, &digests, out)?,
            models,
            data,
            cache,
            placement,
            stop,
        })
    }

    /// Runs what is not done.
    ///
    /// # Errors
    /// The first stage that fails; what was made before stays.
    pub fn run(&self, progress: &mut Progress) -> Result<Ending> {
        for stage in &self.stages {
            if is_done(stage) {
                progress.skipped(stage);
                continue;
            }
            progress.stage(stage);
            fs::create_dir_all(&stage.directory)
                .with_context(|| format!("cannot create {}", stage.directory.display()))?;
            let finished = self
                .run_stage(stage, progress)
                .with_context(|| format!("stage {} ({})", stage.index + 1, stage.action.kind()))?;
            if let Some(step) = finished {
                let stage = stage.index;
                return Ok(Ending::Stopped { stage, step });
            }
            write_json(&stage.directory.join("stage.json"), &self.described(stage)?)?;
        }
        self.write_lineage()?;
        Ok(Ending::Finished)
    }

    /// The step at which the stage was stopped from outside, if it was.
    fn run_stage(&self, stage: &PlannedStage, progress: &mut Progress) -> Result<Option<u64>> {
        match &stage.action {
            Action::Prune(config) => self.prune(stage, config).map(|()| None),
            Action::Sft(config) => self.sft(stage, config, progress),
            Action::Distill(config) => self.distill(stage, config, progress),
            Action::Eval(config) => self.evaluate(stage, config, progress).map(|()| None),
            Action::Export(config) => self.export(stage, config).map(|()| None),
        }
    }

    fn described(&self, stage: &PlannedStage) -> Result<Value> {
        let inputs = stage.inputs.iter().map(|input| {
            json!({
                "key": input.input.reference.key,
                "name": input.input.reference.name,
                "digest": input.digest,
            })
        });
        Ok(json!({
            "stage": stage.index + 1,
            "kind": stage.action.kind(),
            "as": stage.name,
            "digest": stage.digest,
            "directory": stage.directory.file_name().map(|name| name.to_string_lossy()),
            "inputs": inputs.collect::<Vec<_>>(),
            "config": serde_json::to_value(&stage.action)?,
            "seed": self.recipe.seed,
            "version": env!("CARGO_PKG_VERSION"),
        }))
    }

    fn write_lineage(&self) -> Result<()> {
        let Some(run) = self.run_directory() else {
            return Ok(());
        };
        let stages = self.stages.iter().map(|stage| self.described(stage));
        let lineage = json!({
            "recipe": self.recipe.path.display().to_string(),
            "stages": stages.collect::<Result<Vec<_>>>()?,
        });
        write_json(&run.join("lineage.json"), &lineage)
    }

    /// `runs/<recipe>`.
    pub fn run_directory(&self) -> Option<&Path> {
        self.stages
            .first()
            .and_then(|stage| stage.directory.parent())
    }

    fn input<'s>(&self, stage: &'s PlannedStage, key: &str) -> Result<&'s Input> {
        let found = stage
            .inputs
            .iter()
            .find(|input| input.input.reference.key == key);
        match found {
            Some(input) => Ok(&input.input),
            None => bail!("stage {} has no input `{key}`", stage.index + 1),
        }
    }

    fn made_by(&self, origin: &Origin) -> Option<&PlannedStage> {
        match origin {
            Origin::Stage(index) => self.stages.get(*index),
            _ => None,
        }
    }
}

fn is_done(stage: &PlannedStage) -> bool {
    stage.directory.join("stage.json").exists()
}

/// Writes a JSON file whole or not at all.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(directory)?.sync_all()
}

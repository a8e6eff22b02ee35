//! The chain at work: each stage that is not done yet runs, in order, and leaves a whole directory.
//!
//! `runs/<recipe>/<kind>-<digest>/` holds what the stage made and, written last, `stage.json`; a stage
//! with that file is done. `runs/<recipe>/lineage.json` lists the stages of the recipe as it stands.

mod asking;
mod capture;
mod capture_answers;
mod code_quality;
mod corpus;
mod cross_tokenizer;
mod dpo;
mod embeddings;
mod evaluate;
mod exercises;
mod export;
mod filter;
mod generate;
mod gqa;
mod importance;
mod judge;
mod models;
pub mod prune;
mod quantize;
mod rate;
mod remote_teacher;
mod seen;
mod student_prompts;
mod train;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use datasets::selection::COUNTS;
use model::build::Placement;
use model::weights::staged_file::replace_file;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trainer::checkpoint::remove_checkpoints;

use crate::exit::told;
use crate::memory::{return_freed_memory, use_huge_pages};
use crate::plan::{InputDigests, PlannedStage, data_digest, model_digest, plan};
use crate::profile::Profiler;
use crate::progress::Progress;
use crate::recipe::{Action, Input, Origin, Recipe};
use crate::run_record::{Ended, RunLog};
use crate::source::{Cache, ModelSource, Source, digest_of_path};

pub use code_quality::ForestReport;
pub use corpus::DATA;
pub use dpo::PairScores;
pub use evaluate::{Measured, Score, Scores};
pub use export::export_target;
pub use quantize::QuantizationScore;
pub use seen::{Seen, SeenSample};

/// What the names of files begin with while they are written.
const ASIDE: &str = ".partial-";

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
        /// Optimizer steps or records that the stage has done; `None` when it had not begun.
        step: Option<u64>,
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
        let fetched = Inputs::find(recipe, &cache, &|source| Ok(source.resolve(&cache)?))?;
        let Inputs {
            digests,
            models,
            data,
        } = fetched;
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

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Of each stage whether it is done.
    pub fn done(&self) -> Vec<Option<bool>> {
        let done = self.stages.iter().map(is_done);
        done.map(Some).collect()
    }

    /// Runs what is not done.
    ///
    /// # Errors
    /// The first stage that fails; what was made before stays.
    pub fn run(
        &self,
        profiler: Option<&Profiler>,
        progress: &mut Progress,
        log: &mut RunLog,
    ) -> Result<Ending> {
        self.check_keys()?;
        for stage in &self.stages {
            if is_done(stage) {
                progress.skipped(stage);
                clear(stage)?;
                continue;
            }
            if self.stop.load(Ordering::Relaxed) {
                let (stage, step) = (stage.index, None);
                return Ok(Ending::Stopped { stage, step });
            }
            progress.stage(stage);
            fs::create_dir_all(&stage.directory)
                // Whatever is written aside in a stage's directory has a hidden name.
                .and_then(|()| remove_leftovers(&stage.directory, "."))
                .with_context(|| format!("cannot write in {}", stage.directory.display()))?;
            if let Some(profiler) = profiler {
                profiler.begin();
            }
            log.stage_begins(stage);
            let finished = self.run_stage(stage, progress).with_context(|| {
                // Only what is empty goes.
                let _ = fs::remove_dir(&stage.directory);
                format!("stage {} ({})", stage.index + 1, stage.action.kind())
            });
            let ended = match &finished {
                Ok(None) => Ended::Finished,
                Ok(Some(_)) => Ended::Stopped,
                Err(error) => Ended::Failed(told(error)),
            };
            log.stage_ends(stage, ended);
            let finished = finished?;
            if let Some(profiler) = profiler {
                progress.profile(profiler.finish(stage)?);
            }
            return_freed_memory();
            if finished.is_some() {
                let (stage, step) = (stage.index, finished);
                return Ok(Ending::Stopped { stage, step });
            }
            write_json(&stage.directory.join("stage.json"), &self.described(stage)?)?;
            clear(stage)?;
        }
        self.write_lineage()?;
        Ok(Ending::Finished)
    }

    /// How far the stage was, in steps or records, if it was stopped from outside.
    fn run_stage(&self, stage: &PlannedStage, progress: &mut Progress) -> Result<Option<u64>> {
        if stage.action.training().is_some() {
            use_huge_pages();
        }
        match &stage.action {
            Action::Prune(config) => self.prune(stage, config).map(|()| None),
            Action::Gqa(config) => self.gqa(stage, config).map(|()| None),
            Action::Capture(config) => self.capture(stage, config, progress),
            Action::Sft(config) => self.sft(stage, config, progress),
            Action::Distill(config) => self.distill(stage, config, progress),
            Action::Dpo(config) => self.dpo(stage, config, progress),
            Action::Quantize(config) => self.quantize(stage, config, progress).map(|()| None),
            Action::Eval(config) => self.evaluate(stage, config, progress),
            Action::Export(config) => self.export(stage, config).map(|()| None),
            Action::Generate(config) => self.generate(stage, config, progress),
            Action::Rate(config) => self.rate(stage, config, progress),
            Action::Judge(config) => self.judge(stage, config, progress),
            Action::Exercises(config) => self.exercises(stage, config, progress),
            Action::CodeQuality(config) => self.code_quality(stage, config, progress),
            Action::Filter(config) => self.filter(stage, config).map(|()| None),
            Action::Dedup(config) => self.dedup(stage, config).map(|()| None),
            Action::Decontaminate(config) => self.decontaminate(stage, config).map(|()| None),
        }
    }

    /// What `lineage.json` says of the stages.
    ///
    /// # Errors
    /// None that is known: settings can be written as JSON.
    pub fn lineage(&self) -> Result<Vec<Value>> {
        let stages = self.stages.iter().map(|stage| self.described(stage));
        stages.collect()
    }

    /// Where this run computes.
    pub fn device(&self) -> String {
        match self.placement.device == Device::flex() {
            true => "cpu".to_string(),
            false => format!("{:?}", self.placement.device),
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
        remove_leftovers(run, ASIDE)
            .with_context(|| format!("cannot write in {}", run.display()))?;
        let lineage = json!({
            "recipe": self.recipe.path.display().to_string(),
            "stages": self.lineage()?,
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

    /// A key of the stage, with its line of the recipe where the recipe has it.
    fn key_of(&self, stage: &PlannedStage, key: &str) -> String {
        match self.recipe.line_of_key(stage.index, key) {
            Some(line) => format!("`{key}` ({line})"),
            None => format!("`{key}`"),
        }
    }

    fn made_by(&self, origin: &Origin) -> Option<&PlannedStage> {
        match origin {
            Origin::Stage(index) => self.stages.get(*index),
            _ => None,
        }
    }
}

/// What a recipe declares, on this machine.
struct Inputs {
    digests: InputDigests,
    models: BTreeMap<String, PathBuf>,
    data: BTreeMap<String, PathBuf>,
}

impl Inputs {
    /// `locate`: where a source's files are.
    fn find(
        recipe: &Recipe,
        cache: &Cache,
        locate: &dyn Fn(&Source) -> Result<PathBuf>,
    ) -> Result<Self> {
        let mut digests = InputDigests::default();
        let (mut models, mut data) = (BTreeMap::new(), BTreeMap::new());
        let mut contents = BTreeMap::new();
        for (name, model) in &recipe.models {
            if let ModelSource::Stored(source) = &model.source {
                let local = locate(source).with_context(|| format!("model `{name}`"))?;
                contents.insert(name, source.digest(&local, cache)?);
                models.insert(name.clone(), local);
            }
        }
        for (name, model) in &recipe.models {
            let tokenizer = model
                .tokenizer
                .as_ref()
                .and_then(|other| contents.get(other));
            let adapter = match &model.adapter {
                Some(adapter) => Some(digest_of_path(adapter, cache)?),
                None => None,
            };
            let digest = model_digest(model, contents.get(name), tokenizer, adapter.as_ref());
            digests.models.insert(name.clone(), digest);
        }
        for (name, config) in &recipe.data {
            let local = locate(&config.source).with_context(|| format!("data `{name}`"))?;
            let digest = data_digest(config, &config.source.digest(&local, cache)?)?;
            digests.data.insert(name.clone(), digest);
            data.insert(name.clone(), local);
        }
        for input in recipe.inputs.iter().flatten() {
            if let Origin::Targets(path) = &input.origin {
                let digest = digest_of_path(path, cache)?;
                digests.targets.insert(path.clone(), digest);
            }
        }
        Ok(Self {
            digests,
            models,
            data,
        })
    }
}

/// Of each stage whether it is done, without fetching anything; nothing where that cannot be told.
pub fn done_stages(recipe: &Recipe, out: &Path, cache: &Cache) -> Vec<Option<bool>> {
    // Whatever was run has left its directory, and digests that are remembered.
    if !out.join(&recipe.name).exists() {
        return vec![Some(false); recipe.stages.len()];
    }
    let kept = |source: &Source| source.kept(cache).context("not on this machine");
    let planned = Inputs::find(recipe, cache, &kept)
        .and_then(|inputs| Ok(plan(recipe, &inputs.digests, out)?));
    let stages = planned.unwrap_or_default();
    stages.iter().map(|stage| Some(is_done(stage))).collect()
}

fn is_done(stage: &PlannedStage) -> bool {
    stage.directory.join("stage.json").exists()
}

/// Removes what a finished stage needs no more: only now, so that a kill a moment before loses no work.
fn clear(stage: &PlannedStage) -> Result<()> {
    remove_checkpoints(&stage.directory).with_context(|| {
        format!(
            "cannot remove the checkpoints in {}",
            stage.directory.display()
        )
    })
}

/// Removes what a kill left half written: its name begins with `prefix`.
fn remove_leftovers(directory: &Path, prefix: &str) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
        {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// What a finished stage has counted.
///
/// # Errors
/// When the file is missing or holds something else.
fn read_counts<T: DeserializeOwned>(stage: &PlannedStage) -> Result<T> {
    let path = stage.directory.join(COUNTS);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} holds no counts of records", path.display()))
}

/// Writes a JSON file whole or not at all.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    write_whole(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    replace_file(path, ASIDE, bytes)
}

//! Stage `eval` with the task `human_eval`: the table in `scores.json`, the samples of each model beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use evals::human_eval::{HumanEval, Sample, human_eval, read_tasks};
use serde::{Deserialize, Serialize};
use teacher::LocalTeacher;

use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Eval;
use crate::sandbox::open_sandbox;

/// The table that the stage leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HumanEvalScores {
    pub task: String,
    pub data: String,
    pub rows: Vec<HumanEvalScore>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HumanEvalScore {
    pub model: String,
    pub parameters: u64,
    #[serde(flatten)]
    pub result: HumanEval,
}

impl Chain<'_> {
    pub fn human_eval(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<()> {
        let settings = config.human_eval.clone().unwrap_or_default();
        let (name, data) = self.data_config(stage, "data")?;
        let tasks = read_tasks(&data, settings.limit).with_context(|| format!("data `{name}`"))?;
        let sandbox = open_sandbox(&settings.sandbox)?;
        let mut rows = Vec::new();
        for (i, model) in config.models.iter().enumerate() {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let arrays = opened.decoder.arrays();
            let parameters = arrays.map(|array| array.elements() as u64).sum();
            let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
            let path = stage.directory.join(format!("samples-{model}.jsonl"));
            let done = kept_samples(&path)?;
            let mut records = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let bar = progress.solving(model, tasks.len() * settings.samples);
            bar.set_position(done.len() as u64);
            let result = human_eval(
                &teacher,
                &tasks,
                &settings,
                self.recipe.seed,
                &sandbox,
                done,
                &mut |sample| {
                    bar.inc(1);
                    write_sample(&mut records, sample)
                },
            )
            .with_context(|| format!("model `{model}`"))?;
            records.sync_all()?;
            bar.finish_and_clear();
            rows.push(HumanEvalScore {
                model: model.clone(),
                parameters,
                result,
            });
        }
        let scores = HumanEvalScores {
            task: "human_eval".into(),
            data: name,
            rows,
        };
        let path = stage.directory.join("scores.json");
        write_json(&path, &serde_json::to_value(scores)?)
    }

    /// The scores that a finished stage left.
    ///
    /// # Errors
    /// When the file is missing or is not a table of scores.
    pub fn human_eval_scores(stage: &PlannedStage) -> Result<HumanEvalScores> {
        let path = stage.directory.join("scores.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a table of scores", path.display()))
    }
}

/// A line of the records, at once.
pub fn write_sample(records: &mut File, sample: &Sample) -> io::Result<()> {
    records.write_all((serde_json::to_string(sample)? + "\n").as_bytes())
}

/// The samples that a kill has left, without a line that is not whole; the file is cut to them.
fn kept_samples(path: &Path) -> Result<Vec<Sample>> {
    let named = || format!("cannot read {}", path.display());
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(named)?,
    };
    let mut samples = Vec::new();
    let mut whole = 0;
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let sample = serde_json::from_str(line)
            .with_context(|| format!("{} holds no samples", path.display()))?;
        samples.push(sample);
        whole += line.len();
    }
    if whole < text.len() {
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(whole as u64))
            .with_context(named)?;
    }
    Ok(samples)
}

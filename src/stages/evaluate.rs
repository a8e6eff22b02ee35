//! Stage `eval`: one score a model, kept in `scores.json`.

use std::fs;

use anyhow::{Context, Result};
use evals::AcceptanceScore;
use evals::acceptance::acceptance;
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use model::decoder::Decoder;
use serde::{Deserialize, Serialize};
use teacher::LocalTeacher;

use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Eval, Task};

/// The table that the stage leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub task: String,
    pub data: String,
    /// The model that the others draft for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub rows: Vec<Score>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub model: String,
    pub parameters: u64,
    #[serde(flatten)]
    pub measure: Measure,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measure {
    Perplexity(Perplexity),
    Acceptance(AcceptanceScore),
}

impl Chain<'_> {
    pub fn evaluate(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<()> {
        let (task, rows) = match config.task {
            Task::Perplexity => ("perplexity", self.perplexities(stage, config, progress)?),
            Task::Acceptance => ("acceptance", self.acceptances(stage, config, progress)?),
        };
        let scores = Scores {
            task: task.into(),
            data: config.data.clone(),
            target: config.target.clone(),
            rows,
        };
        write_json(
            &stage.directory.join("scores.json"),
            &serde_json::to_value(scores)?,
        )
    }

    /// How each model drafts for the target.
    fn acceptances(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<Vec<Score>> {
        let open = |key: &str| {
            let opened = self.open_model(stage, key)?;
            Ok::<_, anyhow::Error>(LocalTeacher::new(opened.decoder, opened.tokenizer)?)
        };
        let samples = self.samples(stage, "data")?;
        let settings = config.acceptance();
        let target = open("target")?;
        let mut rows = Vec::new();
        for (i, name) in config.models.iter().enumerate() {
            let draft = open(&format!("models.{i}"))?;
            let bar = progress.drafting(name, settings.prompts.min(samples.len()) as u64);
            let seed = self.recipe.seed;
            let score = acceptance(&target, &draft, &samples, &settings, seed, &mut |done| {
                bar.set_position(done);
            })
            .with_context(|| format!("model `{name}`"))?;
            bar.finish_and_clear();
            rows.push(Score {
                model: name.clone(),
                parameters: parameters(draft.decoder()),
                measure: Measure::Acceptance(score),
            });
        }
        Ok(rows)
    }

    fn perplexities(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<Vec<Score>> {
        let settings = PerplexityConfig {
            window: config.window,
            stride: config.stride,
            limit: None,
        };
        let mut rows = Vec::new();
        for (i, name) in config.models.iter().enumerate() {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let documents = documents(&opened.tokenizer, &self.samples(stage, "data")?)?;
            let bar = progress.scoring(name);
            let score = perplexity(
                &opened.decoder,
                &opened.tokenizer,
                &documents,
                &settings,
                &mut |done, total| {
                    bar.update(|state| {
                        state.set_len(total);
                        state.set_pos(done);
                    })
                },
            )?;
            bar.finish_and_clear();
            rows.push(Score {
                model: name.clone(),
                parameters: parameters(&opened.decoder),
                measure: Measure::Perplexity(score),
            });
        }
        Ok(rows)
    }

    /// The scores that a finished stage left.
    ///
    /// # Errors
    /// When the file is missing or is not a table of scores.
    pub fn scores(stage: &PlannedStage) -> Result<Scores> {
        let path = stage.directory.join("scores.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a table of scores", path.display()))
    }
}

fn parameters(decoder: &Decoder) -> u64 {
    let arrays = decoder.arrays();
    arrays.map(|array| array.elements() as u64).sum()
}

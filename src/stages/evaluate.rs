//! Stage `eval`: one score a model, kept in `scores.json`.

use std::fs;

use anyhow::{Context, Result};
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use serde::{Deserialize, Serialize};

use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Eval, Task};

/// The table that the stage leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub task: String,
    pub data: String,
    pub rows: Vec<Score>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub model: String,
    pub parameters: u64,
    #[serde(flatten)]
    pub perplexity: Perplexity,
}

impl Chain<'_> {
    pub fn evaluate(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<()> {
        match config.task {
            Task::Perplexity => self.perplexity(stage, config, progress),
            Task::HumanEval => self.human_eval(stage, config, progress),
        }
    }

    fn perplexity(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<()> {
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
                parameters: opened
                    .decoder
                    .arrays()
                    .map(|array| array.elements() as u64)
                    .sum(),
                perplexity: score,
            });
        }
        let scores = Scores {
            task: "perplexity".into(),
            data: config.data.clone(),
            rows,
        };
        write_json(
            &stage.directory.join("scores.json"),
            &serde_json::to_value(scores)?,
        )
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

//! Stage `eval`: one score a model, kept in `scores.json`.

use std::fs;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use evals::multiple_choice::{Asked, ChoiceConfig, ChoiceScores, ChoiceTask, Question};
use evals::perplexity::{Perplexity, PerplexityConfig, documents, perplexity};
use evals::sample_records::SampleRecords;
use serde::{Deserialize, Serialize};

use super::models::OpenModel;
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Eval;

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
    pub measured: Measured,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    Perplexity(Perplexity),
    Choices(ChoiceScores),
}

impl Chain<'_> {
    /// Nothing when it is finished; the number of models that are done when it was stopped from outside.
    pub fn evaluate(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let asked = match config.task.choices() {
            Some(task) => Some(self.asked(stage, config, task)?),
            None => None,
        };
        let mut rows = Vec::new();
        for (i, name) in config.models.iter().enumerate() {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let measured = match &asked {
                None => self.perplexity_of(stage, config, &opened, progress, name)?,
                Some(asked) => match self.choices_of(stage, asked, &opened, progress, (i, name))? {
                    Some(scores) => Measured::Choices(scores),
                    None => return Ok(Some(i as u64)),
                },
            };
            rows.push(Score {
                model: name.clone(),
                parameters: opened
                    .decoder
                    .arrays()
                    .map(|array| array.elements() as u64)
                    .sum(),
                measured,
            });
        }
        let scores = Scores {
            task: config.task.name().into(),
            data: config.data.clone(),
            rows,
        };
        write_json(
            &stage.directory.join("scores.json"),
            &serde_json::to_value(scores)?,
        )?;
        Ok(None)
    }

    fn perplexity_of(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        opened: &OpenModel,
        progress: &mut Progress,
        name: &str,
    ) -> Result<Measured> {
        let settings = PerplexityConfig {
            window: config.window,
            stride: config.stride,
            limit: None,
        };
        let documents = documents(&opened.tokenizer, &self.samples(stage, "data")?)?;
        let bar = progress.scoring(name, "tokens");
        let (decoder, tokenizer) = (&opened.decoder, &opened.tokenizer);
        let score = perplexity(
            decoder,
            tokenizer,
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
        Ok(Measured::Perplexity(score))
    }

    fn asked(&self, stage: &PlannedStage, config: &Eval, task: ChoiceTask) -> Result<Asked> {
        let read = |key: &str| -> Result<Vec<Question>> {
            let (name, data) = self.data_config(stage, key)?;
            let found = task
                .questions(&data)
                .with_context(|| format!("data `{name}`"))?;
            let taken = data.limit.unwrap_or(usize::MAX);
            Ok(found.questions.into_iter().take(taken).collect())
        };
        let examples = match config.shots_data {
            Some(_) => read("shots_data")?,
            None => Vec::new(),
        };
        let settings = ChoiceConfig {
            shots: config.shots.unwrap_or(0),
            limit: config.limit,
            seed: self.recipe.seed,
        };
        Ok(Asked::new(task, read("data")?, &examples, &settings)?)
    }

    fn choices_of(
        &self,
        stage: &PlannedStage,
        asked: &Asked,
        opened: &OpenModel,
        progress: &mut Progress,
        (number, name): (usize, &str),
    ) -> Result<Option<ChoiceScores>> {
        let path = stage
            .directory
            .join(format!("records-{}-{name}.jsonl", number + 1));
        let records = SampleRecords::open(&path, &stage.digest.to_string())?;
        let bar = progress.scoring(name, "questions");
        bar.set_length(asked.len() as u64);
        let scores = asked.score(&opened.decoder, &opened.tokenizer, records, &mut |done| {
            bar.set_position(done as u64);
            !self.stop.load(Ordering::Relaxed)
        })?;
        bar.finish_and_clear();
        Ok(scores)
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

//! Stage `eval`: one score a model, kept in `scores.json`.

mod acceptance;
mod answers;
mod choices;
mod human_eval;
mod perplexity;
mod subject;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use evals::AcceptanceScore;
use evals::human_eval::HumanEval;
use evals::multiple_choice::ChoiceScores;
use evals::perplexity::Perplexity;
use evals::sample_records::remove_meanwhile;
use evals::written_answers::{AnswerScores, AnswerTask};
use model::decoder::Decoder;
use serde::{Deserialize, Serialize};

use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Eval, Measure};

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
    /// Not known of a remote model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    #[serde(flatten)]
    pub measured: Measured,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    Perplexity(Perplexity),
    Acceptance(AcceptanceScore),
    HumanEval(HumanEval),
    Choices(ChoiceScores),
    Answers(AnswerScores),
}

/// Scores of all models, or how many were done when the run was stopped from outside.
type Rows = Result<Result<Vec<Score>, u64>>;

impl Chain<'_> {
    /// Nothing when it is finished; the number of models that are done when it was stopped from outside.
    pub fn evaluate(
        &self,
        stage: &PlannedStage,
        config: &Eval,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let models = &config.inputs.models;
        let rows = match (&config.measure, config.measure.choices()) {
            (_, Some((task, asked))) => self.choices(stage, config, (task, &asked), progress)?,
            (Measure::Perplexity(windows), _) => {
                self.perplexities(stage, config, windows, progress)?
            }
            (Measure::Acceptance(drafts), _) => {
                self.acceptances(stage, models, drafts, progress)?
            }
            (Measure::HumanEval(programs), _) => {
                self.programs(stage, config, programs, progress)?
            }
            (Measure::Gsm8k(answers), _) => {
                let asked = (AnswerTask::Gsm8k, answers);
                self.written_answers(stage, config, asked, progress)?
            }
            (Measure::Math(answers), _) => {
                let asked = (AnswerTask::Math, answers);
                self.written_answers(stage, config, asked, progress)?
            }
            _ => unreachable!("every other task has choices"),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(done) => return Ok(Some(done)),
        };
        let scores = Scores {
            task: config.measure.name().into(),
            data: config.inputs.data.clone(),
            target: match &config.measure {
                Measure::Acceptance(drafts) => Some(drafts.target.clone()),
                _ => None,
            },
            rows,
        };
        write_json(
            &stage.directory.join("scores.json"),
            &serde_json::to_value(scores)?,
        )?;
        for (number, model) in models.iter().enumerate() {
            remove_meanwhile(&self.records_path(stage, number, model))?;
        }
        Ok(None)
    }

    /// Where what came of every sample of a model lies.
    fn records_path(&self, stage: &PlannedStage, number: usize, model: &str) -> PathBuf {
        let name = format!("records-{}-{model}.jsonl", number + 1);
        stage.directory.join(name)
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

fn parameters(decoder: &Decoder) -> Option<u64> {
    let arrays = decoder.arrays();
    Some(arrays.map(|array| array.elements() as u64).sum())
}

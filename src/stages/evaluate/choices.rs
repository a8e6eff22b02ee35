//! Questions with choices.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use evals::multiple_choice::{Asked, ChoiceConfig, ChoiceTask, Question};
use evals::sample_records::SampleRecords;

use super::{Chain, Measured, Rows, Score, parameters};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Subjects;

impl Chain<'_> {
    pub(super) fn choices(
        &self,
        stage: &PlannedStage,
        models: &[String],
        (task, asked): (ChoiceTask, &Subjects),
        progress: &mut Progress,
    ) -> Rows {
        let asked = self.asked(stage, task, asked)?;
        let mut rows = Vec::new();
        for (i, name) in models.iter().enumerate() {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let path = self.records_path(stage, i, name);
            let records = SampleRecords::of_stage(&path, &stage.digest.to_string())?;
            let bar = progress.scoring(name, "questions");
            bar.set_length(asked.len() as u64);
            let mut told = |done| {
                bar.set_position(done as u64);
                !self.stop.load(Ordering::Relaxed)
            };
            let scores = asked.score(&opened.decoder, &opened.tokenizer, records, &mut told)?;
            bar.finish_and_clear();
            let Some(scores) = scores else {
                return Ok(Err(i as u64));
            };
            rows.push(Score {
                model: name.clone(),
                parameters: parameters(&opened.decoder),
                measured: Measured::Choices(scores),
            });
        }
        Ok(Ok(rows))
    }

    fn asked(&self, stage: &PlannedStage, task: ChoiceTask, config: &Subjects) -> Result<Asked> {
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
}

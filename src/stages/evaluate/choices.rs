//! Questions with choices.

use anyhow::{Context, Result};
use evals::multiple_choice::{Asked, ChoiceTask, Question};
use evals::sample_records::SampleRecords;

use super::subject::Measuring;
use super::{Chain, Measured, Rows};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Eval, Subjects};

impl Chain<'_> {
    pub(super) fn choices(
        &self,
        stage: &PlannedStage,
        eval: &Eval,
        (task, asked): (ChoiceTask, &Subjects),
        progress: &mut Progress,
    ) -> Rows {
        let asked = self.asked(stage, task, asked)?;
        let measure: &Measuring = &|subject, path, told| {
            let records = SampleRecords::of_stage(path, &stage.digest.to_string())?;
            let mut told = |done| told(done, asked.len());
            let scores = asked.score(subject, records, &mut told)?;
            Ok(scores.map(Measured::Choices))
        };
        self.ask_each(stage, eval, "questions", measure, progress)
    }

    fn asked(&self, stage: &PlannedStage, task: ChoiceTask, config: &Subjects) -> Result<Asked> {
        let read = |key: &str| -> Result<Vec<Question>> {
            let (name, data) = self.data_config(stage, key)?;
            let found = task
                .questions(&data)
                .with_context(|| format!("data `{name}`"))?;
            Ok(found.questions)
        };
        let examples = match config.shots_data {
            Some(_) => read("shots_data")?,
            None => Vec::new(),
        };
        let settings = config.config(self.recipe.seed);
        Ok(Asked::new(task, read("data")?, &examples, &settings)?)
    }
}

//! Tasks `gsm8k` and `math`: answers that models write.

use anyhow::{Context, Result};
use evals::sample_records::SampleRecords;
use evals::written_answers::{AnswerTask, AskedProblems, Problem};

use super::subject::Measuring;
use super::{Chain, Measured, Rows};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Answers, Eval};

impl Chain<'_> {
    pub(super) fn written_answers(
        &self,
        stage: &PlannedStage,
        eval: &Eval,
        (task, answers): (AnswerTask, &Answers),
        progress: &mut Progress,
    ) -> Rows {
        let read = |key: &str| -> Result<Vec<Problem>> {
            let (name, data) = self.data_config(stage, key)?;
            task.problems(&data)
                .with_context(|| format!("data `{name}`"))
        };
        let examples = match answers.shots_data {
            Some(_) => read("shots_data")?,
            None => Vec::new(),
        };
        let (config, seed) = (answers.config(), self.recipe.seed);
        let asked = AskedProblems::new(task, read("data")?, &examples, &config, seed)?;
        let measure: &Measuring = &|subject, path, told| {
            let records = SampleRecords::of_stage(path, &stage.digest.to_string())?;
            let mut told = |done| told(done, asked.len());
            let scores = asked.score(subject, records, &mut told)?;
            Ok(scores.map(Measured::Answers))
        };
        self.ask_each(stage, eval, "questions", measure, progress)
    }
}

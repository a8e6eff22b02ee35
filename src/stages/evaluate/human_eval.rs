//! Task `human_eval`: programs that models write and that run in the sandbox.

use std::sync::atomic::Ordering;

use anyhow::Context;
use evals::human_eval::{HumanEvalConfig, human_eval, read_tasks};
use evals::sample_records::SampleRecords;
use teacher::LocalTeacher;

use super::{Chain, Measured, Rows, Score, parameters};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::sandbox::open_sandbox;

impl Chain<'_> {
    pub(super) fn programs(
        &self,
        stage: &PlannedStage,
        models: &[String],
        config: &HumanEvalConfig,
        progress: &mut Progress,
    ) -> Rows {
        let (name, data) = self.data_config(stage, "data")?;
        let tasks = read_tasks(&data, config.limit).with_context(|| format!("data `{name}`"))?;
        let sandbox = open_sandbox(&config.sandbox)?;
        let mut rows = Vec::new();
        for (i, model) in models.iter().enumerate() {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let parameters = parameters(&opened.decoder);
            let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
            let records = SampleRecords::of_stage(
                &self.records_path(stage, i, model),
                &stage.digest.to_string(),
            )?;
            let bar = progress.scoring(model, "programs");
            bar.set_length((tasks.len() * config.samples) as u64);
            let mut told = |done| {
                bar.set_position(done as u64);
                !self.stop.load(Ordering::Relaxed)
            };
            let seed = self.recipe.seed;
            let found = human_eval(&teacher, &tasks, config, seed, &sandbox, records, &mut told)
                .with_context(|| format!("model `{model}`"))?;
            bar.finish_and_clear();
            let Some(found) = found else {
                return Ok(Err(i as u64));
            };
            rows.push(Score {
                model: model.clone(),
                parameters,
                measured: Measured::HumanEval(found),
            });
        }
        Ok(Ok(rows))
    }
}

//! Task `human_eval`: programs that models write and that run in the sandbox.

use anyhow::Context;
use evals::human_eval::{HumanEvalConfig, human_eval, read_tasks};
use evals::sample_records::SampleRecords;

use super::subject::Measuring;
use super::{Chain, Measured, Rows};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Eval;
use crate::sandbox::open_sandbox;

impl Chain<'_> {
    pub(super) fn programs(
        &self,
        stage: &PlannedStage,
        eval: &Eval,
        config: &HumanEvalConfig,
        progress: &mut Progress,
    ) -> Rows {
        let (name, data) = self.data_config(stage, "data")?;
        let tasks = read_tasks(&data, config.limit).with_context(|| format!("data `{name}`"))?;
        let sandbox = open_sandbox(&config.sandbox)?;
        let seed = self.recipe.seed;
        let measure: &Measuring = &|subject, path, told| {
            let records = SampleRecords::of_stage(path, &stage.digest.to_string())?;
            let mut told = |done| told(done, tasks.len() * config.samples);
            let found = human_eval(subject, &tasks, config, seed, &sandbox, records, &mut told)?;
            Ok(found.map(Measured::HumanEval))
        };
        self.ask_each(stage, eval, "programs", measure, progress)
    }
}

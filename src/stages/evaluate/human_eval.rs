//! Task `human_eval`: programs that models write and that run in the sandbox.

use anyhow::Context;
use evals::human_eval::{HumanEvalConfig, human_eval, read_tasks};
use evals::sample_records::SampleRecords;

use super::subject::Measuring;
use super::{Chain, Measured, Rows};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::EvalInputs;
use crate::sandbox::open_sandbox;

impl Chain<'_> {
    pub(super) fn programs(
        &self,
        stage: &PlannedStage,
        inputs: &EvalInputs,
        config: &HumanEvalConfig,
        progress: &mut Progress,
    ) -> Rows {
        let (name, data) = self.data_config(stage, "data")?;
        let tasks = read_tasks(&data, config.limit).with_context(|| format!("data `{name}`"))?;
        let sandbox = open_sandbox(&config.sandbox)?;
        let seed = self.recipe.seed;
        let measure: &Measuring = &|subject, path, told| {
            let records = SampleRecords::of_stage(path, &stage.digest.to_string())?;
            let found = human_eval(subject, &tasks, config, seed, &sandbox, records, told)?;
            Ok(found.map(Measured::HumanEval))
        };
        let samples = (tasks.len() * config.samples, "programs");
        self.ask_each(stage, inputs, samples, measure, progress)
    }
}

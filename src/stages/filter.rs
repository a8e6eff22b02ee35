//! Stages `filter`, `dedup` and `decontaminate`: data that later stages name, and an account of what was dropped.

use anyhow::{Context, Result};
use datasets::decontaminate::{Benchmarks, decontaminate};
use datasets::dedup::dedup;
use datasets::filter::filter;
use datasets::selection::Counts;
use model::phase;

use super::{Chain, DATA};
use crate::plan::PlannedStage;
use crate::recipe::{Decontaminate, Dedup, Filter};

impl Chain<'_> {
    pub fn filter(&self, stage: &PlannedStage, config: &Filter) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        filter(&data, &config.rules, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Ok(())
    }

    pub fn dedup(&self, stage: &PlannedStage, config: &Dedup) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        let field = config.field.as_deref();
        dedup(&data, &config.method, field, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Ok(())
    }

    pub fn decontaminate(&self, stage: &PlannedStage, config: &Decontaminate) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        let sets = config.sets().map(|(key, _)| self.data_config(stage, &key));
        let sets = sets.collect::<Result<Vec<_>>>()?;
        let benchmarks = Benchmarks::read(&sets, config.ngram).context("what `against` names")?;
        decontaminate(&data, &benchmarks, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Ok(())
    }

    /// The counts that a finished stage left.
    ///
    /// # Errors
    /// When the file is missing or holds something else.
    pub fn counts(stage: &PlannedStage) -> Result<Counts> {
        super::read_counts(stage)
    }
}

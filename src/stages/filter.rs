//! Stages `filter`, `dedup` and `decontaminate`: data that later stages name, and an account of what was dropped.

use anyhow::{Context, Result};
use datasets::decontaminate::{Benchmarks, decontaminate};
use datasets::dedup::dedup;
use datasets::filter::{Executes, Rule, filter};
use datasets::selection::Counts;
use evals::sandbox::{Program, Verdict};
use model::phase;

use super::{Chain, DATA};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Decontaminate, Dedup, Filter, sandbox_of};
use crate::sandbox::open_sandbox;

impl Chain<'_> {
    pub fn filter(&self, stage: &PlannedStage, config: &Filter) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        let executes = config.rules.iter().filter_map(|rule| match rule {
            Rule::Executes(executes) => Some(executes),
            _ => None,
        });
        let sandboxes = executes
            .map(|executes| Ok((executes, open_sandbox(&sandbox_of(executes))?)))
            .collect::<Result<Vec<_>>>()?;
        let run = |rule: &Executes, code: &str, checks: &str| {
            let found = sandboxes.iter().find(|(executes, _)| *executes == rule);
            let (_, sandbox) = found.ok_or("a rule without a sandbox")?;
            let outcome = (sandbox.run(Program { code, checks })).map_err(|why| why.to_string())?;
            let has_passed = outcome.verdict == Verdict::Passed;
            Ok((!has_passed).then(|| outcome.verdict.described()))
        };
        let counts = filter(&data, &config.rules, &run, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Progress::sifted(&counts);
        Ok(())
    }

    pub fn dedup(&self, stage: &PlannedStage, config: &Dedup) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        let field = config.field.as_deref();
        let counts = dedup(&data, &config.method, field, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Progress::sifted(&counts);
        Ok(())
    }

    pub fn decontaminate(&self, stage: &PlannedStage, config: &Decontaminate) -> Result<()> {
        let _phase = phase!("filter data");
        let (name, data) = self.data_config(stage, "data")?;
        let sets = config.sets().map(|(key, _)| self.data_config(stage, &key));
        let sets = sets.collect::<Result<Vec<_>>>()?;
        let benchmarks = Benchmarks::read(&sets, config.ngram).context("what `against` names")?;
        let counts = decontaminate(&data, &benchmarks, &stage.directory, DATA)
            .with_context(|| format!("data `{name}`"))?;
        Progress::sifted(&counts);
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

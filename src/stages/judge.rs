//! Stage `judge`: a teacher compares the answers of two data to the same prompts, in both orders.

use std::sync::Arc;

use anyhow::{Result, bail};
use datasets::selection::COUNTS;
use teacher::synth::asker::Asker;
use teacher::synth::judge::{Comparison, Plan, judge, matches};
use teacher::synth::verdict::VerdictCounts;

use super::asking::{Questions, read_records};
use super::{Chain, DATA, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Judge;

impl Chain<'_> {
    /// The number of comparisons that were written, if the stage was stopped from outside.
    pub fn judge(
        &self,
        stage: &PlannedStage,
        config: &Judge,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let (a, b) = (self.answers(stage, "a")?, self.answers(stage, "b")?);
        let (found, unmatched) = matches(a, b);
        if found.is_empty() {
            bail!(
                "`{}` and `{}` have no prompt in common\n\
                 hint: a prompt is all that stands before the last answer, system prompts too: let both be made from the same `prompts`, with the same `prompt` and `system`",
                config.a,
                config.b
            );
        }
        let found = Arc::new(found);
        let plan = Arc::new(Plan {
            system: config.system.clone(),
            prompt: config.prompt.clone(),
            sampling: self.sampling(&config.sampling),
            schema: config.schema.unwrap_or(self.remote(stage)?.is_some()),
        });
        let questions = Questions {
            count: found.len(),
            seed: "prompts",
            record: "comparisons",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: DATA,
        };
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, found) = (plan.clone(), found.clone());
            async move { judge(&asker, &plan, &found[number]).await }
        };
        let stopped = self.ask(stage, &questions, &ask, progress)?;
        if stopped.is_none() {
            count_verdicts(stage, found.len() as u64, unmatched as u64)?;
        }
        Ok(stopped)
    }

    /// The counts that a finished stage left.
    ///
    /// # Errors
    /// When the file is missing or holds something else.
    pub fn verdict_counts(stage: &PlannedStage) -> Result<VerdictCounts> {
        super::read_counts(stage)
    }
}

fn count_verdicts(stage: &PlannedStage, asked: u64, unmatched: u64) -> Result<()> {
    let path = stage.directory.join(DATA);
    let mut counts = VerdictCounts {
        unmatched,
        ..VerdictCounts::default()
    };
    for comparison in read_records::<Comparison>(&path, "comparisons")? {
        counts.count(&comparison?);
    }
    counts.dropped = asked - counts.judged();
    write_json(
        &stage.directory.join(COUNTS),
        &serde_json::to_value(&counts)?,
    )
}

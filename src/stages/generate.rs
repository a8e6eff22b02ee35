//! Stage `generate`: a teacher answers the prompts of a data set, and its answers become data.

use std::sync::Arc;

use anyhow::Result;
use teacher::synth::asker::Asker;
use teacher::synth::generate::{Plan, answer_seed};

use super::Chain;
use super::asking::Questions;
use super::corpus::DATA;
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Generate;

impl Chain<'_> {
    /// The number of conversations that were written, if the stage was stopped from outside.
    pub fn generate(
        &self,
        stage: &PlannedStage,
        config: &Generate,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let seeds = Arc::new(self.samples(stage, "prompts")?);
        let plan = Arc::new(self.plan_of(config));
        let questions = Questions {
            count: seeds.len(),
            seed: "prompts",
            record: "conversations",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: DATA,
        };
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, seeds) = (plan.clone(), seeds.clone());
            async move { answer_seed(&asker, &plan, number, &seeds[number]).await }
        };
        self.ask(stage, &questions, &ask, progress)
    }

    fn plan_of(&self, config: &Generate) -> Plan {
        let mut sampling = config.sampling.clone();
        sampling.seed.get_or_insert(self.recipe.seed);
        Plan {
            system: config.system.clone(),
            prompt: config.prompt.clone(),
            user: config.user.clone(),
            turns: config.turns,
            candidates: config.candidates,
            sampling,
            top_logprobs: config.logprobs,
            schema: config.schema.clone().map(|file| file.0),
        }
    }
}

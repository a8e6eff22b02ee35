//! Stage `generate`: a teacher answers the prompts of a data set, or makes more of them, and what it writes becomes data.

use std::sync::Arc;

use anyhow::Result;
use teacher::synth::asker::Asker;
use teacher::synth::evol_instruct::{EvolInstruct, evolve_seed};
use teacher::synth::generate::{Plan, answer_seed};
use teacher::synth::in_order::Recording;
use teacher::synth::instruction::Seed;
use teacher::synth::self_instruct::{Asking, SelfInstruct, self_instruct};
use tokio::runtime::Runtime;

use super::Chain;
use super::asking::Questions;
use super::corpus::DATA;
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Generate, Mode};

impl Chain<'_> {
    /// The number of conversations that were written, if the stage was stopped from outside.
    pub fn generate(
        &self,
        stage: &PlannedStage,
        config: &Generate,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        match &config.mode {
            Mode::Answer => self.answer(stage, config, progress),
            Mode::SelfInstruct(mode) => self.self_instruct(stage, config, mode, progress),
            Mode::EvolInstruct(mode) => self.evol_instruct(stage, config, mode, progress),
        }
    }

    fn answer(
        &self,
        stage: &PlannedStage,
        config: &Generate,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let seeds = Arc::new(self.prompts(stage, "prompts")?);
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

    fn self_instruct(
        &self,
        stage: &PlannedStage,
        config: &Generate,
        mode: &SelfInstruct,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let seeds = self.seeds(stage)?;
        let asking = self.asking_of(config);
        let questions = Questions {
            count: mode.instructions,
            seed: "requests",
            record: "instructions",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: DATA,
        };
        let drive = |runtime: &Runtime, asker, recording: Recording<'_, _>| {
            runtime.block_on(self_instruct(asker, mode, &asking, &seeds, recording))
        };
        let shown = progress.asking(questions.count, questions.record);
        self.ask_by(stage, &questions, &drive, shown)
    }

    fn evol_instruct(
        &self,
        stage: &PlannedStage,
        config: &Generate,
        mode: &EvolInstruct,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let seeds = Arc::new(self.seeds(stage)?);
        let plan = Arc::new((mode.clone(), self.asking_of(config)));
        let questions = Questions {
            count: seeds.len(),
            seed: "seeds",
            record: "instructions",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: DATA,
        };
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, seeds) = (plan.clone(), seeds.clone());
            async move { evolve_seed(&asker, &plan.0, &plan.1, number, &seeds[number]).await }
        };
        self.ask(stage, &questions, &ask, progress)
    }

    fn seeds(&self, stage: &PlannedStage) -> Result<Vec<Seed>> {
        let samples = self.prompts(stage, "prompts")?;
        Ok(samples.iter().map(Seed::of).collect())
    }

    fn asking_of(&self, config: &Generate) -> Asking {
        Asking {
            system: config.system.clone(),
            sampling: self.sampling(&config.sampling),
            allow_failed: config.allow_failed,
        }
    }

    fn plan_of(&self, config: &Generate) -> Plan {
        Plan {
            system: config.system.clone(),
            prompt: config.prompt.clone(),
            user: config.user.clone(),
            turns: config.turns,
            candidates: config.candidates,
            sampling: self.sampling(&config.sampling),
            top_logprobs: config.logprobs,
            schema: config.schema.clone().map(|file| file.0),
        }
    }
}

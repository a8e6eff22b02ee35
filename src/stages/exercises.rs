//! Stage `exercises`: a teacher writes functions about topics, and those that are Python become data.

use std::sync::Arc;

use anyhow::Result;
use teacher::synth::asker::Asker;
use teacher::synth::exercises::write_exercises;
use teacher::synth::generate::Plan;

use super::asking::Questions;
use super::{Chain, DATA};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Exercises;

impl Chain<'_> {
    /// The number of exercises that were written, if the stage was stopped from outside.
    pub fn exercises(
        &self,
        stage: &PlannedStage,
        config: &Exercises,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let topics = Arc::new(self.samples(stage, "topics")?);
        let plan = Arc::new(Plan::question(
            Some(config.prompt.clone()),
            config.candidates,
            self.sampling(&config.sampling),
            config.schema.clone().map(|file| file.0),
        ));
        let questions = Questions {
            count: topics.len(),
            seed: "topics",
            record: "exercises",
            budget: config.budget,
            allow_failed: config.allow_failed,
            file: DATA,
        };
        let ask = |asker: Arc<Asker>, number: usize| {
            let (plan, topics) = (plan.clone(), topics.clone());
            async move { write_exercises(&asker, &plan, number, &topics[number]).await }
        };
        self.ask(stage, &questions, &ask, progress)
    }
}

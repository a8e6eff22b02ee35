//! What a student that writes goes on from.

use anyhow::{Result, bail};
use datasets::loader::BatchLoader;
use datasets::tokenizer::Tokenizer;
use trainer::config::TrainConfig;
use trainer::on_policy::config::OnPolicy;

use super::Chain;
use super::corpus::encoder;
use crate::plan::PlannedStage;

impl Chain<'_> {
    /// The prompts of data of their own; `None` where those of the stage's data serve.
    ///
    /// # Errors
    /// When there is none that an answer fits behind.
    pub fn student_prompts(
        &self,
        stage: &PlannedStage,
        config: &TrainConfig,
        on_policy: &OnPolicy,
        tokenizer: &Tokenizer,
        data: &BatchLoader,
    ) -> Result<Option<Vec<Vec<u32>>>> {
        let length = config.sequence_length;
        if on_policy.prompts.is_none() {
            let corpus = data.corpus();
            // A prompt of one token is none: every plain text begins with one.
            let has_prompt = |number| {
                let sample = corpus.sample(number);
                let first = sample.supervised.iter().position(|learned| *learned != 0);
                first.is_some_and(|first| (2..length).contains(&first))
            };
            if !(0..corpus.len()).any(has_prompt) {
                bail!(
                    "{}: the data has no prompts that the student could answer: all of it is learned\nhint: take data with prompts or conversations, or name questions with `on_policy.prompts`",
                    self.key_of(stage, "on_policy")
                );
            }
            return Ok(None);
        }
        let key = "on_policy.prompts";
        let encoder = encoder(config.chat_template.as_deref(), tokenizer)?;
        let samples = self.prompts(stage, key)?;
        let mut prompts = Vec::with_capacity(samples.len());
        for sample in &samples {
            let ids = encoder.question(sample)?;
            if (1..length).contains(&ids.len()) {
                prompts.push(ids);
            }
        }
        let (kept, all) = (prompts.len(), samples.len());
        if kept == 0 {
            bail!(
                "{}: none of {all} prompts leaves room for an answer within `sequence_length` = {length}\nhint: raise `sequence_length`",
                self.key_of(stage, key)
            );
        }
        if kept < all {
            tracing::warn!(
                "{} of {all} prompts are left out: they fill a row of {length} tokens",
                all - kept
            );
        }
        Ok(Some(prompts))
    }
}

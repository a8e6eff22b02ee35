//! What a student that writes goes on from.

use anyhow::{Context, Result, bail};
use datasets::loader::BatchLoader;
use datasets::tokenizer::Tokenizer;
use teacher::vocabulary;

use super::Chain;
use super::corpus::encoder;
use crate::plan::PlannedStage;
use crate::recipe::Distill;

impl Chain<'_> {
    /// The prompts of data of their own; `None` where those of the stage's data serve, or the student writes nothing.
    /// `both`: the student's tokenizer and the rows of its head, and the teacher's; the first `valid` tokens may be drawn.
    ///
    /// # Errors
    /// When there is none that an answer fits behind; when the teacher would read a prompt, or what may be drawn, as
    /// something else.
    pub fn student_prompts(
        &self,
        stage: &PlannedStage,
        distill: &Distill,
        data: &BatchLoader,
        both: [(&Tokenizer, usize); 2],
        valid: usize,
    ) -> Result<Option<Vec<Vec<u32>>>> {
        let Some(on_policy) = &distill.inputs.on_policy else {
            return Ok(None);
        };
        let [(tokenizer, rows), (theirs, columns)] = both;
        let compare = |key: &str, used: Vec<u32>| {
            vocabulary::compare(tokenizer, theirs, used, rows, columns)
                .with_context(|| self.key_of(stage, key))
        };
        let drawn = (0..valid as u32).filter(|&id| tokenizer.token(id).is_some());
        compare("on_policy", drawn.collect())?;
        let config = &distill.train;
        let length = config.sequence_length;
        if on_policy.prompts.is_none() {
            let corpus = data.corpus();
            // A prompt of one token is none: every plain text begins with one.
            let has_prompt = |number: &usize| {
                let sample = corpus.sample(*number);
                let first = sample.supervised.iter().position(|learned| *learned != 0);
                first.is_some_and(|first| (2..length).contains(&first))
            };
            let (all, with) = (corpus.len(), (0..corpus.len()).filter(has_prompt).count());
            // Neither at the start nor later is anything to be written.
            let is_never = on_policy.share == 0.0 && on_policy.adaptive.is_none();
            if with == 0 && !is_never {
                bail!(
                    "{}: the data has no prompts that the student could answer: all of it is learned\nhint: take data with prompts or conversations, or name questions with `on_policy.prompts`",
                    self.key_of(stage, "on_policy")
                );
            }
            if with < all && !is_never {
                tracing::warn!(
                    "{} of {all} samples have no prompt that the student could answer: they are learned as they are",
                    all - with
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
        compare(key, prompts.iter().flatten().copied().collect())?;
        Ok(Some(prompts))
    }
}

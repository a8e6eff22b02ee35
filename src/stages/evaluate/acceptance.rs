//! Task `acceptance`: how each model drafts for another.

use anyhow::{Context, Result};
use evals::acceptance::acceptance;
use teacher::LocalTeacher;

use super::{Chain, Measured, Rows, Score, parameters};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Drafts;

impl Chain<'_> {
    pub(super) fn acceptances(
        &self,
        stage: &PlannedStage,
        models: &[String],
        drafts: &Drafts,
        progress: &mut Progress,
    ) -> Rows {
        let open = |key: &str| -> Result<LocalTeacher> {
            let opened = self.open_model(stage, key)?;
            Ok(LocalTeacher::new(opened.decoder, opened.tokenizer)?)
        };
        let samples = self.samples(stage, "data")?;
        let settings = drafts.config();
        let target = open("target")?;
        let mut rows = Vec::new();
        for (i, name) in models.iter().enumerate() {
            let draft = open(&format!("models.{i}"))?;
            let bar = progress.scoring(name, "prompts");
            bar.set_length(settings.prompts.min(samples.len()) as u64);
            let seed = self.recipe.seed;
            let score = acceptance(&target, &draft, &samples, &settings, seed, &mut |done| {
                bar.set_position(done);
            })
            .with_context(|| format!("model `{name}`"))?;
            bar.finish_and_clear();
            rows.push(Score {
                model: name.clone(),
                parameters: parameters(draft.decoder()),
                measured: Measured::Acceptance(score),
            });
        }
        Ok(Ok(rows))
    }
}

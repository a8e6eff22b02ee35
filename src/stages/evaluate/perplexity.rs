//! Task `perplexity`.

use anyhow::Result;
use evals::perplexity::{PerplexityConfig, documents, perplexity};

use super::{Chain, Measured, Rows, Score, parameters};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Windows;

impl Chain<'_> {
    pub(super) fn perplexities(
        &self,
        stage: &PlannedStage,
        models: &[String],
        windows: &Windows,
        progress: &mut Progress,
    ) -> Rows {
        let settings = PerplexityConfig {
            window: windows.window,
            stride: windows.stride,
            limit: None,
        };
        let samples = self.samples(stage, "data")?;
        let score = |(i, name): (usize, &String)| -> Result<Score> {
            let opened = self.open_model(stage, &format!("models.{i}"))?;
            let (decoder, tokenizer) = (&opened.decoder, &opened.tokenizer);
            let documents = documents(tokenizer, &samples)?;
            let bar = progress.scoring(name, "tokens");
            let mut told = |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            };
            let found = perplexity(decoder, tokenizer, &documents, &settings, &mut told)?;
            bar.finish_and_clear();
            Ok(Score {
                model: name.clone(),
                parameters: parameters(decoder),
                measured: Measured::Perplexity(found),
            })
        };
        let rows: Result<Vec<Score>> = models.iter().enumerate().map(score).collect();
        rows.map(Ok)
    }
}

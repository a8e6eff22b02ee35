//! Task `perplexity`.

use evals::perplexity::{PerplexityConfig, documents, perplexity};

use super::subject::Measuring;
use super::{Chain, Measured, Rows};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{Eval, Windows};

impl Chain<'_> {
    pub(super) fn perplexities(
        &self,
        stage: &PlannedStage,
        eval: &Eval,
        windows: &Windows,
        progress: &mut Progress,
    ) -> Rows {
        let settings = PerplexityConfig {
            window: windows.window,
            stride: windows.stride,
            limit: None,
        };
        let samples = self.samples(stage, "data")?;
        let measure: &Measuring = &|subject, _, told| {
            let documents = documents(subject.reading()?.tokenizer, &samples)?;
            let mut told = |done, total| told(done as usize, total as usize);
            let found = perplexity(subject, &documents, &settings, &mut told)?;
            Ok(found.map(Measured::Perplexity))
        };
        self.ask_each(stage, eval, "tokens", measure, progress)
    }
}

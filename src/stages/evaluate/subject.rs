//! Models that are asked for texts, or how likely texts are, on this machine or behind a server.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use evals::subject::{RemoteSubject, Subject};
use serde_json::json;
use teacher::LocalTeacher;
use teacher::remote::RemoteModel;
use teacher::synth::asker::{Asker, Backend};

use super::{Chain, Measured, Rows, Score, parameters, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::Eval;

/// Measures one model with records at a place; tells how many samples are done, and of how many, and hears whether to go on.
pub(super) type Measuring<'a> =
    dyn Fn(&Subject, &Path, &mut dyn FnMut(usize, usize) -> bool) -> Result<Option<Measured>> + 'a;

impl Chain<'_> {
    /// Measures each model by samples that are `called` so.
    pub(super) fn ask_each(
        &self,
        stage: &PlannedStage,
        eval: &Eval,
        called: &str,
        measure: &Measuring,
        progress: &mut Progress,
    ) -> Rows {
        let mut rows = Vec::new();
        let mut stored = 0;
        for (i, model) in eval.inputs.models.iter().enumerate() {
            let (subject, parameters) = self.subject(stage, i, eval)?;
            let bar = progress.scoring(model, called);
            let mut told = |done, samples| {
                bar.set_length(samples as u64);
                bar.set_position(done as u64);
                !self.stop.load(Ordering::Relaxed)
            };
            let path = self.records_path(stage, i, model);
            let measured = measure(&subject, &path, &mut told);
            bar.finish_and_clear();
            if let Subject::Remote(remote) = &subject {
                stored += self.write_spending(stage, i, remote, stored)?;
            }
            let task = eval.measure.name();
            let measured = measured.with_context(|| format!("{task} of model `{model}`"))?;
            let Some(measured) = measured else {
                return Ok(Err(i as u64));
            };
            rows.push(Score {
                model: model.clone(),
                parameters,
                measured,
            });
        }
        Ok(Ok(rows))
    }

    /// The model with this number, and its parameters where they are known.
    fn subject(
        &self,
        stage: &PlannedStage,
        number: usize,
        eval: &Eval,
    ) -> Result<(Subject<'_>, Option<u64>)> {
        let key = format!("models.{number}");
        let input = self.input(stage, &key)?;
        let Some(server) = self.server(input) else {
            let opened = self.open_model(stage, &key)?;
            let parameters = parameters(&opened.decoder);
            let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
            return Ok((Subject::Local(Box::new(teacher)), parameters));
        };
        let account = self.account(stage, server.price, eval.inputs.budget.unwrap_or_default())?;
        let stopping = Arc::new(AtomicBool::new(false));
        let model = RemoteModel::new(server, stopping.clone())?;
        let asker = Asker::new(Backend::Remote(Box::new(model)), account);
        let remote = RemoteSubject::new(asker, self.stop, stopping);
        let mut remote = remote.context("cannot start asking")?;
        if !eval.measure.is_written() {
            let (tokenizer, context) = self.tokenizer_and_context(input)?;
            remote = remote.with_tokenizer(tokenizer, context);
        }
        Ok((Subject::Remote(remote), None))
    }

    /// Shows what the stage has cost, and writes it beside its result. How many answers of this model came from the store;
    /// `before` it came those of others.
    fn write_spending(
        &self,
        stage: &PlannedStage,
        number: usize,
        remote: &RemoteSubject,
        before: u64,
    ) -> Result<u64> {
        let (spent, stored) = remote.spent();
        let server = self.server(self.input(stage, &format!("models.{number}"))?);
        let is_priced = server.is_some_and(|server| server.price.is_some());
        Progress::ledger(&spent, stored, is_priced);
        let last = json!({ "from_the_store": before + stored });
        let ledger = json!({ "all_runs": spent, "last_run": last });
        write_json(&stage.directory.join("ledger.json"), &ledger)?;
        Ok(stored)
    }
}

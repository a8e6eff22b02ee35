//! Stage `distill` with a teacher behind a server, which scores every batch, whoever wrote it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use serde_json::json;
use teacher::remote::RemoteModel;
use teacher::remote_scorer::RemoteScorer;
use teacher::shards::encoding::TopK;
use teacher::shards::remote_capture::RemoteCapture;
use teacher::vocabulary;
use trainer::loss::LossEntries;
use trainer::objective::{Guide, TokenObjective};

use super::train::{Writing, used_ids};
use super::{Chain, write_json};
use crate::plan::PlannedStage;
use crate::progress::Progress;
use crate::recipe::{AskedTeacher, Distill};

impl Chain<'_> {
    pub(super) fn distill_from_server(
        &self,
        stage: &PlannedStage,
        config: &Distill,
        asked: &AskedTeacher,
        progress: &mut Progress,
    ) -> Result<Option<u64>> {
        let Distill { inputs, train } = config;
        let (student, base) = self.open_student(stage, "student", train)?;
        self.check_context(stage, "student", &student.decoder, train)?;
        let data = self.training_data(stage, &inputs.data, train, &student.tokenizer)?;
        let theirs = self.tokenizer_of_remote(stage)?;
        let (rows, columns) = (student.decoder.head().rows(), theirs.vocabulary_size());
        let used = used_ids(&data);
        let valid = vocabulary::compare(&student.tokenizer, &theirs, used, rows, columns)?;
        let both = [(&student.tokenizer, rows), (&theirs, columns)];
        let prompts = self.student_prompts(stage, config, &data, both, valid)?;
        let scorer = self.scorer(
            stage,
            asked,
            RemoteCapture {
                tokenizer: theirs,
                top: TopK {
                    k: asked.k,
                    bits: 16,
                },
                vocabulary: valid,
            },
        )?;
        let taken = || scorer.take_time();
        let objective = TokenObjective {
            entries: LossEntries::new(&inputs.loss)?,
            teacher: Some(Guide::Asked(&scorer)),
            valid: rows,
        };
        let mut training = self.token_training(stage, (student, base), data, objective, train)?;
        training.on_policy = inputs.on_policy.as_ref().map(|config| Writing {
            config,
            scoring: &taken,
            vocabulary: valid,
            prompts,
        });
        let ended = self.train(stage, training, progress);
        let (spent, stored) = scorer.spent();
        let is_priced = self
            .remote(stage)?
            .is_some_and(|remote| remote.price.is_some());
        Progress::ledger(&spent, stored, is_priced);
        let ledger = json!({ "all_runs": spent, "last_run": { "from_the_store": stored } });
        write_json(&stage.directory.join("ledger.json"), &ledger)?;
        ended
    }

    fn scorer(
        &self,
        stage: &PlannedStage,
        asked: &AskedTeacher,
        capture: RemoteCapture,
    ) -> Result<RemoteScorer<'_>> {
        let remote = self
            .remote(stage)?
            .context("the teacher is a remote model")?;
        let account = self.account(stage, remote.price, asked.budget)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let model = RemoteModel::new(remote, stopping.clone())?;
        RemoteScorer::new(model, account, capture, stopping, self.stop)
            .context("cannot start asking")
    }
}

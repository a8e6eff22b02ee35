//! Stages whose records a teacher writes: whom they ask, what it has cost, and the file that the answers make.
//!
//! Every answer is kept in the store of answers before it counts. The stage's own file follows from the store: after a
//! kill it is written again from the start, and nothing is asked that was answered.

use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use teacher::TeacherError;
use teacher::local::LocalTeacher;
use teacher::remote::RemoteModel;
use teacher::remote::account::{Account, Budget, Spending};
use teacher::remote::config::{Price, RemoteConfig};
use teacher::remote::request::Sampling;
use teacher::remote::store::Store;
use teacher::synth::asker::{Asker, Backend};
use teacher::synth::in_order::{Answered, Dropped, Outcome, Recording, ask_in_order};
use teacher::synth::local_queue::local_queue;
use tokio::runtime::Runtime;

use super::{Chain, is_done, write_json};
use crate::plan::PlannedStage;
use crate::progress::{Asking, Progress};
use crate::recipe::{Input, Origin};
use crate::source::ModelSource;

/// What a stage asks its `teacher` for.
pub struct Questions {
    /// Seeds: each is asked about, and makes records.
    pub count: usize,
    /// What seeds and records are called.
    pub seed: &'static str,
    pub record: &'static str,
    pub budget: Budget,
    /// Seeds that may stay without an answer.
    pub allow_failed: usize,
    /// Where the records go, a line each, in the stage's directory.
    pub file: &'static str,
}

impl Questions {
    fn limits(&self) -> (Budget, usize) {
        (self.budget, self.allow_failed)
    }
}

/// Asks, and hands on what comes of it.
pub type Driver<'a, R> = dyn Fn(&Runtime, Arc<Asker>, Recording<'_, R>) -> (Outcome, Result<(), TeacherError>)
    + Sync
    + 'a;

/// How the asking ended.
pub struct Asked {
    pub outcome: Outcome,
    pub result: Result<(), TeacherError>,
    spent: Spending,
    /// Answers that were there already.
    stored: u64,
}

impl Chain<'_> {
    /// Drawn with the recipe's seed, unless it has one of its own.
    pub fn sampling(&self, sampling: &Sampling) -> Sampling {
        let seed = sampling.seed.unwrap_or(self.recipe.seed);
        Sampling {
            seed: Some(seed),
            ..sampling.clone()
        }
    }

    /// Writes what `ask` makes of the seeds. The number of records, if it was stopped from outside.
    pub fn ask<R, Work>(
        &self,
        stage: &PlannedStage,
        questions: &Questions,
        ask: &(dyn Fn(Arc<Asker>, usize) -> Work + Sync),
        progress: &mut Progress,
    ) -> Result<Option<u64>>
    where
        R: Serialize + Send + 'static,
        Work: Future<Output = Result<Answered<R>, TeacherError>> + Send + 'static,
    {
        let asking = progress.asking(questions.count, questions.seed);
        self.ask_by(stage, questions, &each_seed(questions.count, ask), asking)
    }

    /// Writes what `drive` makes of the questions; it tells `asking` how far it is.
    pub fn ask_by<R: Serialize + Send + 'static>(
        &self,
        stage: &PlannedStage,
        questions: &Questions,
        drive: &Driver<'_, R>,
        asking: Asking,
    ) -> Result<Option<u64>> {
        let partial = stage.directory.join(format!("{}.partial", questions.file));
        let mut out = Lines::create(&partial)?;
        let mut on_record = |record: &R| out.write(record);
        let asked = match self.ask_all_by(stage, questions.limits(), drive, &mut on_record, asking)
        {
            Ok(asked) => asked,
            Err(error) => {
                // Nothing was asked, so there is nothing in it.
                fs::remove_file(&partial)
                    .with_context(|| format!("cannot remove {}", partial.display()))?;
                return Err(error);
            }
        };
        out.flush()?;
        Progress::asked(&asked.outcome, (questions.record, questions.seed));
        self.write_ledger(stage, &asked)?;
        asked.result?;
        if asked.outcome.stopped {
            return Ok(Some(asked.outcome.records as u64));
        }
        check_outcome(&asked.outcome, questions)?;
        out.finish(&partial, &stage.directory.join(questions.file))?;
        Ok(None)
    }

    /// Asks about all seeds, `(how many, what they are called)`, and hands on what comes of them in their order.
    ///
    /// # Errors
    /// A teacher or a store that cannot be opened; what goes wrong with the asking itself is part of the result.
    pub fn ask_all<R, Work>(
        &self,
        stage: &PlannedStage,
        (count, seeds): (usize, &'static str),
        budget: Budget,
        ask: &(dyn Fn(Arc<Asker>, usize) -> Work + Sync),
        on_record: &mut (dyn FnMut(&R) -> Result<(), TeacherError> + Send),
        progress: &mut Progress,
    ) -> Result<Asked>
    where
        R: Send + 'static,
        Work: Future<Output = Result<Answered<R>, TeacherError>> + Send + 'static,
    {
        let asking = progress.asking(count, seeds);
        self.ask_all_by(
            stage,
            (budget, 0),
            &each_seed(count, ask),
            on_record,
            asking,
        )
    }

    fn ask_all_by<R: Send + 'static>(
        &self,
        stage: &PlannedStage,
        (budget, allow_failed): (Budget, usize),
        drive: &Driver<'_, R>,
        on_record: &mut (dyn FnMut(&R) -> Result<(), TeacherError> + Send),
        mut asking: Asking,
    ) -> Result<Asked> {
        let stopping = Arc::new(AtomicBool::new(false));
        let remote = self.remote(stage)?;
        let price = remote.and_then(|remote| remote.price);
        let account = self.account(stage, price, budget)?;
        let run = |backend: Backend| -> Result<Asked> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start asking")?;
            let asker = Arc::new(Asker::new(backend, account));
            let mut on_seed = |done: usize| asking.done(done);
            let recording = Recording {
                stop: self.stop,
                stopping: &stopping,
                allow_failed,
                on_record,
                on_seed: &mut on_seed,
            };
            let (outcome, result) = drive(&runtime, asker.clone(), recording);
            asking.finish();
            let (spent, stored) = asker.spent();
            Ok(Asked {
                outcome,
                result,
                spent,
                stored,
            })
        };
        match remote {
            Some(remote) => {
                let model = RemoteModel::new(remote, stopping.clone())?;
                run(Backend::Remote(Box::new(model)))
            }
            None => {
                let opened = self.open_model(stage, "teacher")?;
                let teacher = LocalTeacher::new(opened.decoder, opened.tokenizer)?;
                let model = self.digest_of_input(stage, "teacher")?;
                let (queue, jobs) = local_queue();
                std::thread::scope(|scope| {
                    let backend = Backend::Local { queue, model };
                    let asked = scope.spawn(|| run(backend));
                    jobs.serve(&teacher);
                    match asked.join() {
                        Ok(asked) => asked,
                        Err(_) => bail!("the asking has failed"),
                    }
                })
            }
        }
    }

    /// What a stage spends, beside the answers that all stages share.
    pub(super) fn account(
        &self,
        stage: &PlannedStage,
        price: Option<Price>,
        budget: Budget,
    ) -> Result<Account> {
        let store = Arc::new(Store::open(&self.cache.root().join("answers.sqlite"))?);
        Ok(Account::open(
            &stage.digest.to_string(),
            store,
            price,
            budget,
        )?)
    }

    /// Shows what it has cost, and writes it beside the stage's result.
    pub fn write_ledger(&self, stage: &PlannedStage, asked: &Asked) -> Result<()> {
        let remote = self.remote(stage)?;
        let is_priced = remote.is_some_and(|remote| remote.price.is_some());
        Progress::ledger(&asked.spent, asked.stored, is_priced);
        let ledger = json!({ "all_runs": asked.spent, "last_run": { "from_the_store": asked.stored, "outcome": asked.outcome } });
        write_json(&stage.directory.join("ledger.json"), &ledger)
    }

    /// Whether there is a key for every server that is to be asked: not only when its turn comes, hours later perhaps.
    pub fn check_keys(&self) -> Result<()> {
        for stage in self.stages.iter().filter(|stage| !is_done(stage)) {
            for input in &stage.inputs {
                let Origin::Model(name) = &input.input.origin else {
                    continue;
                };
                if let ModelSource::Remote(remote) = &self.recipe.models[name].source
                    && let Some(key) = &remote.key
                {
                    key.read().with_context(|| format!("model `{name}`"))?;
                }
            }
        }
        Ok(())
    }

    /// The stage's teacher, however it is named.
    pub fn teacher_input<'s>(&self, stage: &'s PlannedStage) -> Result<&'s Input> {
        self.input(stage, "teacher")
            .or_else(|_| self.input(stage, "teacher.remote"))
    }

    /// The server behind the stage's teacher; None for a model on this machine.
    pub fn remote(&self, stage: &PlannedStage) -> Result<Option<&RemoteConfig>> {
        Ok(self.server(self.teacher_input(stage)?))
    }

    /// The server behind a model; None for one on this machine.
    pub(super) fn server(&self, input: &Input) -> Option<&RemoteConfig> {
        let Origin::Model(name) = &input.origin else {
            return None;
        };
        match &self.recipe.models[name].source {
            ModelSource::Remote(remote) => Some(remote),
            ModelSource::Stored(_) | ModelSource::Random(_) => None,
        }
    }
}

/// Asks about the seeds `0..count`, many at a time.
fn each_seed<'a, R, Work>(
    count: usize,
    ask: &'a (dyn Fn(Arc<Asker>, usize) -> Work + Sync),
) -> impl Fn(&Runtime, Arc<Asker>, Recording<'_, R>) -> (Outcome, Result<(), TeacherError>) + Sync + 'a
where
    R: Send + 'static,
    Work: Future<Output = Result<Answered<R>, TeacherError>> + Send + 'static,
{
    move |runtime, asker, recording| {
        let at_a_time = asker.concurrency();
        let ask = |number: usize| ask(asker.clone(), number);
        runtime.block_on(ask_in_order(count, at_a_time, &ask, recording))
    }
}

/// Whether enough was answered for a data set.
fn check_outcome(outcome: &Outcome, questions: &Questions) -> Result<()> {
    let seeds = questions.seed;
    let failed = outcome.unanswered;
    if failed > questions.allow_failed {
        let said = outcome
            .said
            .get(&Dropped::NoAnswer)
            .map_or("", String::as_str);
        bail!(
            "{failed} of {} {seeds} got no answer: {said}\n\
             hint: run the same command again, only these are asked again; or let the stage finish without them: allow_failed = {failed}",
            outcome.seeds
        );
    }
    if outcome.records == 0 {
        let why: Vec<String> = (outcome.said.iter())
            .map(|(dropped, said)| {
                format!(
                    "{} dropped {}: {said}",
                    outcome.dropped[dropped],
                    dropped.describe()
                )
            })
            .collect();
        bail!(
            "none of the {seeds} has a usable answer: {}",
            why.join("; ")
        );
    }
    Ok(())
}

/// The JSON lines of a finished file, `what` it is said to hold, one after another.
pub(super) fn read_records<R: DeserializeOwned>(
    path: &Path,
    what: &str,
) -> Result<impl Iterator<Item = Result<R>>> {
    let failed = || format!("cannot read {}", path.display());
    let lines = BufReader::new(File::open(path).with_context(failed)?).lines();
    Ok(lines.map(move |line| {
        serde_json::from_str(&line.with_context(failed)?)
            .with_context(|| format!("{} holds something else than {what}", path.display()))
    }))
}

/// JSON lines on their way into a file.
pub(super) struct Lines(BufWriter<File>);

impl Lines {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(BufWriter::new(file)))
    }

    pub(super) fn write(&mut self, record: &impl Serialize) -> Result<(), TeacherError> {
        let line = serde_json::to_string(record).map_err(std::io::Error::other);
        let written = line.and_then(|line| writeln!(self.0, "{line}"));
        written.map_err(TeacherError::Record)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush().context("cannot write the answers")
    }

    /// On the disk, and under its own name.
    pub(super) fn finish(mut self, partial: &Path, target: &Path) -> Result<()> {
        self.flush()?;
        let file = self.0.get_ref();
        file.sync_all()
            .and_then(|()| fs::rename(partial, target))
            .and_then(|()| File::open(target.parent().unwrap_or(Path::new(".")))?.sync_all())
            .with_context(|| format!("cannot write {}", target.display()))
    }
}

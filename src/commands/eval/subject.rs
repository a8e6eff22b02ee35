//! The model that is asked for texts, or how likely texts are, on this machine or behind a server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use evals::subject::{RemoteSubject, Subject};
use model::load::load_frozen_decoder;
use teacher::LocalTeacher;
use teacher::remote::RemoteModel;
use teacher::remote::account::{Account, Budget};
use teacher::remote::store::Store;
use teacher::synth::asker::{Asker, Backend};
use teacher::tokenizer::load_tokenizer;

use crate::cli::ModelArgs;
use crate::commands::open_model::{open, open_model};
use crate::device::place;
use crate::source::{Cache, ModelSource, Source};

/// A verb is stopped by ending it.
static STOP: AtomicBool = AtomicBool::new(false);

/// `tokenizer` is whose tokenizer a model behind a server has, where that is known.
pub fn open_subject(model: &ModelArgs, tokenizer: Option<&Source>) -> Result<Subject<'static>> {
    let ModelSource::Remote(remote) = &model.model else {
        let placement = place(model.device.device)?;
        let checkpoint = open_model(model)?;
        let tokenizer = load_tokenizer(&checkpoint)?;
        let decoder = load_frozen_decoder(&checkpoint, &placement)?;
        let teacher = LocalTeacher::new(decoder, tokenizer)?;
        return Ok(Subject::Local(Box::new(teacher)));
    };
    ensure!(model.adapter.is_none(), "a remote model takes no --adapter");
    let answers = Cache::from_env()?.root().join("answers.sqlite");
    let store = Arc::new(Store::open(&answers)?);
    let account = Account::open("the verb eval", store, remote.price, Budget::default())?;
    let stopping = Arc::new(AtomicBool::new(false));
    let server = RemoteModel::new(remote, stopping.clone())?;
    let asker = Asker::new(Backend::Remote(Box::new(server)), account);
    let mut remote = RemoteSubject::new(asker, &STOP, stopping).context("cannot start asking")?;
    if let Some(lender) = tokenizer {
        let lender = open(lender).context("--tokenizer")?;
        let context = lender.config().max_position_embeddings;
        remote = remote.with_tokenizer(load_tokenizer(&lender)?, context);
    }
    Ok(Subject::Remote(remote))
}

//! Whom an evaluation asks for texts, or for how likely they are: a model on this machine, or one behind a server.
//!
//! A model here reads what all prompts begin with once, and takes as many of them at a time as its cache has room for,
//! the longest first. A server is asked at its text completions, so that both continue the same text.

mod batches;
mod given;
mod remote;

use std::time::Instant;

use datasets::tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use teacher::{FinishReason, GenerationRequest, LocalTeacher, TeacherError};
use thiserror::Error;

use crate::sample_records::{RecordsError, SampleRecords};
use batches::Batches;
pub use remote::RemoteSubject;

pub enum Subject<'a> {
    Local(Box<LocalTeacher>),
    Remote(RemoteSubject<'a>),
}

/// What makes tokens of texts whose log-likelihoods are asked for, and what they have to keep to.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Tokens that are read at once, the last one of a text not counted: it is only scored.
    pub context: usize,
    /// Ids from here on have no meaning.
    pub vocabulary: usize,
}

/// What a text is wanted behind.
pub struct Asked<'a> {
    /// Of its record.
    pub number: usize,
    /// In words.
    pub name: String,
    pub text: &'a str,
    /// Of its draws.
    pub seed: u64,
}

/// What was written behind a prompt, without the stop string.
pub struct Written {
    pub text: String,
    pub finish_reason: FinishReason,
    /// Of texts that were written together the mean.
    pub seconds: f64,
}

#[derive(Debug, Error)]
pub enum SubjectError {
    #[error("{name}")]
    Prompt {
        name: String,
        source: Box<TeacherError>,
    },
    #[error(transparent)]
    Teacher(#[from] TeacherError),
    #[error(
        "{name}: the server's answer holds no text\n\
         hint: the evaluation asks `/completions`; does the server have it?"
    )]
    NoChoice { name: String },
    #[error(
        "log-likelihoods of a model behind a server need its tokenizer here\n\
         hint: name a model on this machine whose tokenizer is the server's own"
    )]
    NoTokenizer,
}

impl Subject<'_> {
    /// # Errors
    /// [`SubjectError::NoTokenizer`]
    pub fn reading(&self) -> Result<Reading<'_>, SubjectError> {
        match self {
            Self::Local(teacher) => {
                let config = &teacher.decoder().config;
                Ok(Reading {
                    tokenizer: teacher.tokenizer(),
                    context: config.max_position_embeddings,
                    vocabulary: config.vocab_size,
                })
            }
            Self::Remote(remote) => remote.reading(),
        }
    }

    /// Has a text written behind each prompt, and makes a record of each. What is in `records` already is not asked for
    /// again. `progress` hears how many are done, and says whether to go on; whether all are done is returned.
    ///
    /// # Errors
    /// A prompt that does not fit into the model's context; what a server says; those of `judge`; records that cannot be
    /// written.
    pub fn write_all<R, E>(
        &self,
        prompts: &[Asked],
        request: &GenerationRequest,
        records: &mut SampleRecords<R>,
        judge: &(dyn Fn(usize, Written) -> Result<R, E> + Sync),
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, E>
    where
        R: Serialize + DeserializeOwned + Clone + Send + Sync,
        E: From<SubjectError> + From<RecordsError> + Send,
    {
        let batches = match self {
            Self::Local(teacher) => Batches::here(teacher, prompts, request)?,
            Self::Remote(remote) => Batches::there(prompts.len(), remote.concurrency()),
        };
        let mut done = 0;
        for batch in batches.order.chunks(batches.size) {
            let is_known = |&at: &usize| records.get(prompts[at].number).is_some();
            done += batch.len();
            if !batch.iter().all(is_known) {
                let Some(written) = self.write(batch, prompts, &batches, request)? else {
                    return Ok(false);
                };
                let fresh = batch.par_iter().zip(written);
                let fresh = fresh.filter(|(at, _)| !is_known(at));
                let judged = fresh.map(|(&at, text)| Ok((prompts[at].number, judge(at, text)?)));
                let judged = judged.collect::<Result<Vec<_>, E>>()?;
                records.append(judged)?;
            }
            if !progress(done) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(
        &self,
        batch: &[usize],
        prompts: &[Asked],
        batches: &Batches,
        request: &GenerationRequest,
    ) -> Result<Option<Vec<Written>>, SubjectError> {
        let teacher = match self {
            Self::Local(teacher) => teacher,
            Self::Remote(remote) => {
                let asked: Vec<&Asked> = batch.iter().map(|&at| &prompts[at]).collect();
                return remote.write(&asked, request);
            }
        };
        let started = Instant::now();
        let ids: Vec<Vec<u32>> = batch.iter().map(|&at| batches.ids[at].clone()).collect();
        let seeds: Vec<u64> = batch.iter().map(|&at| prompts[at].seed).collect();
        let completions = teacher.generate_together(&ids, &seeds, request, batches.together)?;
        let seconds = started.elapsed().as_secs_f64() / batch.len() as f64;
        let written = completions.into_iter().map(|completion| Written {
            text: completion.text,
            finish_reason: completion.finish_reason,
            seconds,
        });
        Ok(Some(written.collect()))
    }
}

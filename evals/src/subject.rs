//! Whom an evaluation asks for texts: a model on this machine, or one behind a server.
//!
//! A model here reads what all prompts begin with once, and takes as many of them at a time as its cache has room for,
//! the longest first. A server is asked at its text completions, so that both continue the same text.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use model::decoder::Decoder;
use model::generate::engine::ROWS_AT_A_TIME;
use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use teacher::local::Together;
use teacher::remote::account::Spending;
use teacher::remote::request::{Input, Request, Sampling};
use teacher::synth::asker::Asker;
use teacher::synth::in_order::{Answered, Recording, ask_in_order};
use teacher::{FinishReason, GenerationRequest, LocalTeacher, Prompt, TeacherError};
use thiserror::Error;
use tokio::runtime::Runtime;

use crate::sample_records::{RecordsError, SampleRecords};

/// Most bytes of keys and values that are held for the texts under way.
const CACHED_BYTES: usize = 2 << 30;
/// A shorter common start is not worth a forward pass of its own.
const LEAST_SHARED: usize = 16;
/// Batches' worth of prompts between two looks at whether to stop.
const BATCHES: usize = 2;
/// More stop strings than OpenAI's own server takes.
const MOST_STOPS: usize = 4;

pub enum Subject<'a> {
    Local(Box<LocalTeacher>),
    Remote(RemoteSubject<'a>),
}

pub struct RemoteSubject<'a> {
    asker: Arc<Asker>,
    runtime: Runtime,
    /// Set from outside.
    stop: &'a AtomicBool,
    /// Tells the asker's model to send nothing more.
    stopping: Arc<AtomicBool>,
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
}

impl<'a> RemoteSubject<'a> {
    /// `stopping` is what the asker's model hears; `stop` is looked at while answers are waited for.
    ///
    /// # Errors
    /// A system that gives no sockets to wait for.
    pub fn new(
        asker: Asker,
        stop: &'a AtomicBool,
        stopping: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            asker: Arc::new(asker),
            runtime,
            stop,
            stopping,
        })
    }

    /// What has been spent, and how many answers came from the store.
    pub fn spent(&self) -> (Spending, u64) {
        self.asker.spent()
    }

    /// Texts behind some prompts; `None` when it was stopped from outside.
    fn write(
        &self,
        prompts: &[&Asked],
        request: &GenerationRequest,
    ) -> Result<Option<Vec<Written>>, SubjectError> {
        let is_drawn = request.sampling.temperature > 0.0;
        let requests: Vec<Request> = (prompts.iter())
            .map(|asked| Request {
                input: Input::Text(asked.text.to_owned()),
                sampling: Sampling {
                    temperature: decimal(request.sampling.temperature),
                    top_p: decimal(request.sampling.top_p),
                    max_tokens: u32::try_from(request.max_new_tokens).unwrap_or(u32::MAX),
                    seed: is_drawn.then_some(asked.seed),
                    stop: request.stop.iter().take(MOST_STOPS).cloned().collect(),
                },
                candidates: 1,
                top_logprobs: None,
                schema: None,
            })
            .collect();
        let ask = |number: usize| {
            let (asker, request) = (self.asker.clone(), requests[number].clone());
            async move {
                let started = Instant::now();
                let answer = asker.ask(&request).await?.answer;
                Ok(Answered {
                    records: vec![(answer, started.elapsed().as_secs_f64())],
                    ..Answered::default()
                })
            }
        };
        let mut answers = Vec::with_capacity(prompts.len());
        let recording = Recording {
            stop: self.stop,
            stopping: &self.stopping,
            allow_failed: 0,
            on_record: &mut |answer: &_| {
                answers.push(Clone::clone(answer));
                Ok(())
            },
            on_seed: &mut |_| (),
        };
        let at_a_time = self.asker.concurrency();
        let asking = ask_in_order(prompts.len(), at_a_time, &ask, recording);
        let (outcome, result) = self.runtime.block_on(asking);
        result?;
        if outcome.stopped {
            return Ok(None);
        }
        let written = answers.into_iter().zip(prompts).map(|(answer, asked)| {
            let (answer, seconds): (teacher::remote::answer::Answer, f64) = answer;
            let choice = answer.choices.into_iter().next();
            let choice = choice.ok_or_else(|| SubjectError::NoChoice {
                name: asked.name.clone(),
            })?;
            let (text, cut) = cut_at(choice.text, &request.stop);
            let is_length = choice.finish_reason.as_deref() == Some("length");
            let finish_reason = match is_length && !cut {
                true => FinishReason::Length,
                false => FinishReason::Stop,
            };
            Ok(Written {
                text,
                finish_reason,
                seconds,
            })
        });
        written.collect::<Result<_, _>>().map(Some)
    }
}

/// A number as it was written, without what 32 bits add to it.
fn decimal(number: f32) -> f64 {
    let text = number.to_string();
    text.parse().unwrap_or_else(|_| f64::from(number))
}

/// The text before the first stop string, and whether there was one.
fn cut_at(mut text: String, stops: &[String]) -> (String, bool) {
    let found = stops.iter().filter_map(|stop| text.find(stop.as_str()));
    match found.min() {
        Some(end) => {
            text.truncate(end);
            (text, true)
        }
        None => (text, false),
    }
}

impl Subject<'_> {
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
            Self::Remote(remote) => Batches::there(prompts.len(), remote.asker.concurrency()),
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

/// Which prompts are taken together. It follows from the prompts and the model alone, not from what is known already.
struct Batches {
    /// The tokens of each prompt, of a model here.
    ids: Vec<Vec<u32>>,
    order: Vec<usize>,
    size: usize,
    together: Together,
}

impl Batches {
    fn here(
        teacher: &LocalTeacher,
        prompts: &[Asked],
        request: &GenerationRequest,
    ) -> Result<Self, SubjectError> {
        let ids = prompts.iter().map(|asked| {
            let ids = teacher.prompt_ids(None, &Prompt::Text(asked.text.to_owned()));
            ids.map_err(|source| SubjectError::Prompt {
                name: asked.name.clone(),
                source: Box::new(source),
            })
        });
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&at| Reverse(ids[at].len()));
        let longest = order.first().map_or(0, |&at| ids[at].len());
        let rows = rows_at_a_time(teacher.decoder(), longest + request.max_new_tokens);
        let shared = shared_length(&ids);
        Ok(Self {
            ids,
            order,
            size: BATCHES * rows,
            together: Together { rows, shared },
        })
    }

    fn there(prompts: usize, concurrency: usize) -> Self {
        Self {
            ids: Vec::new(),
            order: (0..prompts).collect(),
            size: BATCHES * concurrency.max(1),
            together: Together { rows: 1, shared: 0 },
        }
    }
}

/// As many sequences of this length as the cache has room for.
fn rows_at_a_time(decoder: &Decoder, length: usize) -> usize {
    let config = &decoder.config;
    let width = config.num_key_value_heads * config.head_dim;
    let position_bytes = 2 * decoder.blocks.len() * width * size_of::<f32>();
    let length = length.min(config.max_position_embeddings);
    (CACHED_BYTES / (position_bytes * length).max(1)).clamp(1, ROWS_AT_A_TIME)
}

/// How many first tokens all prompts share, short of the last of each; 0 where that is not worth the while.
fn shared_length(prompts: &[Vec<u32>]) -> usize {
    let [first, others @ ..] = prompts else {
        return 0;
    };
    let shared = others.iter().fold(first.len() - 1, |shared, other| {
        let most = shared.min(other.len() - 1);
        (first.iter().zip(other).take(most))
            .take_while(|(a, b)| a == b)
            .count()
    });
    match shared >= LEAST_SHARED && !others.is_empty() {
        true => shared,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_before_its_first_stop_string() {
        let stops = ["Question:".to_string(), "</s>".to_string()];
        let cut = |text: &str| cut_at(text.to_string(), &stops);
        assert_eq!(cut("18</s> Question:"), ("18".to_string(), true));
        assert_eq!(cut(" 18 Question"), (" 18 Question".to_string(), false));
    }

    #[test]
    fn a_common_start_is_shared_where_it_is_long_and_each_prompt_goes_on() {
        let long: Vec<u32> = (0..20).collect();
        let other = [&long[..18], &[99, 98]].concat();
        assert_eq!(shared_length(&[long.clone(), other]), 18);
        assert_eq!(shared_length(&[long.clone(), long.clone()]), 19);
        assert_eq!(shared_length(&[long.clone(), long[..16].to_vec()]), 0);
        assert_eq!(shared_length(&[long]), 0);
        assert_eq!(shared_length(&[]), 0);
    }
}

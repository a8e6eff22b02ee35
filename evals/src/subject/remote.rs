//! A model behind a server, asked for texts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use datasets::tokenizer::Tokenizer;
use teacher::remote::account::Spending;
use teacher::remote::answer::Answer;
use teacher::remote::request::{Input, Request, Sampling};
use teacher::synth::asker::Asker;
use teacher::synth::in_order::{Answered, Recording, ask_in_order};
use teacher::{FinishReason, GenerationRequest, TeacherError};
use tokio::runtime::Runtime;

use super::{Asked, SubjectError, Written};

/// More stop strings than OpenAI's own server takes.
const MOST_STOPS: usize = 4;

pub struct RemoteSubject<'a> {
    pub(super) asker: Arc<Asker>,
    /// The tokenizer of its ids and the context of the model that lends it, where they are known.
    pub(super) tokenizer: Option<(Arc<Tokenizer>, usize)>,
    runtime: Runtime,
    /// Set from outside.
    stop: &'a AtomicBool,
    /// Tells the asker's model to send nothing more.
    stopping: Arc<AtomicBool>,
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
            tokenizer: None,
            runtime,
            stop,
            stopping,
        })
    }

    /// What has been spent, and how many answers came from the store.
    pub fn spent(&self) -> (Spending, u64) {
        self.asker.spent()
    }

    /// `tokenizer` is the server's own, and `context` that of the model on this machine that it comes from.
    #[must_use]
    pub fn with_tokenizer(self, tokenizer: Tokenizer, context: usize) -> Self {
        Self {
            tokenizer: Some((Arc::new(tokenizer), context)),
            ..self
        }
    }

    /// Requests that make sense at a time.
    pub(super) fn concurrency(&self) -> usize {
        self.asker.concurrency()
    }

    /// Texts behind some prompts; `None` when it was stopped from outside.
    pub(super) fn write(
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
                Ok((answer, started.elapsed().as_secs_f64()))
            }
        };
        let Some(answers) = self.ask_all(prompts.len(), &ask)? else {
            return Ok(None);
        };
        let written = answers.into_iter().zip(prompts).map(|(answer, asked)| {
            let (answer, seconds): (Answer, f64) = answer;
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

    /// What comes of the questions `0..count`, in their order; `None` when it was stopped from outside.
    pub(super) fn ask_all<T, Work>(
        &self,
        count: usize,
        ask: &(dyn Fn(usize) -> Work + Sync),
    ) -> Result<Option<Vec<T>>, SubjectError>
    where
        T: Clone + Send + 'static,
        Work: Future<Output = Result<T, TeacherError>> + Send + 'static,
    {
        let ask = |number: usize| {
            let asked = ask(number);
            async move {
                Ok(Answered {
                    records: vec![asked.await?],
                    ..Answered::default()
                })
            }
        };
        let mut found = Vec::with_capacity(count);
        let recording = Recording {
            stop: self.stop,
            stopping: &self.stopping,
            allow_failed: 0,
            on_record: &mut |record: &T| {
                found.push(record.clone());
                Ok(())
            },
            on_seed: &mut |_| (),
        };
        let asking = ask_in_order(count, self.asker.concurrency(), &ask, recording);
        let (outcome, result) = self.runtime.block_on(asking);
        result?;
        Ok((!outcome.stopped).then_some(found))
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
}

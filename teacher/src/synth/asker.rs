//! Requests that are answered once: from the store where the answer is kept, else by the teacher.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::local_queue::{AT_A_TIME, LocalQueue};
use crate::error::TeacherError;
use crate::remote::RemoteModel;
use crate::remote::account::{Account, Spending};
use crate::remote::answer::Answer;
use crate::remote::error::RemoteError;
use crate::remote::request::{Input, Request};

/// Who is asked.
pub enum Backend {
    Remote(Box<RemoteModel>),
    Local {
        queue: LocalQueue,
        /// The digest of the model's contents.
        model: String,
    },
}

pub struct Asker {
    backend: Backend,
    account: Account,
    /// Requests under way, so that equal ones are sent once.
    under_way: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    stored: AtomicU64,
}

/// An answer and what it is kept under.
#[derive(Debug)]
pub struct Asked {
    pub answer: Answer,
    pub key: String,
}

impl Asker {
    pub fn new(backend: Backend, account: Account) -> Self {
        Self {
            backend,
            account,
            under_way: Mutex::new(HashMap::new()),
            stored: AtomicU64::new(0),
        }
    }

    /// What answers are kept under, with the request: the model's name at its server, or the digest of its contents.
    pub fn model(&self) -> String {
        match &self.backend {
            Backend::Remote(remote) => remote.model().to_owned(),
            Backend::Local { model, .. } => format!("sha256:{model}"),
        }
    }

    /// Requests that make sense at a time.
    pub fn concurrency(&self) -> usize {
        match &self.backend {
            Backend::Remote(remote) => remote.concurrency(),
            Backend::Local { .. } => AT_A_TIME,
        }
    }

    /// What the stage has spent in all its runs, and how many answers of this run came from the store.
    pub fn spent(&self) -> (Spending, u64) {
        (self.account.spent(), self.stored.load(Ordering::Relaxed))
    }

    /// # Errors
    /// As [`RemoteModel::ask`] and [`LocalQueue::ask`]; a store that cannot be written.
    pub async fn ask(&self, request: &Request) -> Result<Asked, TeacherError> {
        let key = request.digest(&self.model());
        if let Some(asked) = self.stored(&key)? {
            return Ok(asked);
        }
        let turn = {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            under_way.entry(key.clone()).or_default().clone()
        };
        let _turn = turn.lock().await;
        let asked = match self.stored(&key)? {
            Some(asked) => Ok(asked),
            None => self.ask_now(request, key.clone()).await,
        };
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The next of those that wait may have to ask: who comes now waits with them. The map holds the other one.
        if Arc::strong_count(&turn) == 2 {
            under_way.remove(&key);
        }
        asked
    }

    fn stored(&self, key: &str) -> Result<Option<Asked>, TeacherError> {
        let answer = self.account.store().get(key)?;
        Ok(answer.map(|answer| {
            self.stored.fetch_add(1, Ordering::Relaxed);
            Asked {
                answer,
                key: key.to_owned(),
            }
        }))
    }

    async fn ask_now(&self, request: &Request, key: String) -> Result<Asked, TeacherError> {
        let (answer, spent) = match &self.backend {
            Backend::Remote(remote) => remote.ask(request, &self.account).await?,
            Backend::Local { queue, .. } => {
                let most = crate::remote::answer::Usage {
                    input: request.estimated_input(),
                    output: request.most_output(),
                };
                let mut reservation = self.account.reserve(most).await?;
                reservation.sent(false).await?;
                match queue.ask(request).await {
                    Ok(answer) => {
                        let spent = reservation.answered(answer.usage);
                        (answer, spent)
                    }
                    Err(error) => {
                        reservation.refused().await?;
                        return Err(error);
                    }
                }
            }
        };
        let (store, stage) = (self.account.store(), self.account.stage());
        if lacks_logprobs(request, &answer) {
            // It was paid for, and answers the same request without log-probabilities.
            let plain = Request {
                top_logprobs: None,
                ..request.clone()
            };
            store
                .put(&plain.digest(&self.model()), &answer, stage, spent)
                .await?;
            return Err(TeacherError::Remote(RemoteError::Unable {
                endpoint: self.model(),
                what: "tell log-probabilities: the server leaves `logprobs` out of its answers".into(),
                hint: "leave out `logprobs`, or ask a server that has them: vLLM, SGLang and llama.cpp do".into(),
            }));
        }
        let answer = store.put(&key, &answer, stage, spent).await?;
        Ok(Asked { answer, key })
    }
}

fn lacks_logprobs(request: &Request, answer: &Answer) -> bool {
    let wanted = request.top_logprobs.is_some() && !matches!(request.input, Input::Given(_));
    wanted
        && (answer.choices.iter())
            .any(|choice| !choice.text.is_empty() && choice.logprobs.is_empty())
}

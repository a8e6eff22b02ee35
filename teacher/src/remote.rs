//! A model behind an OpenAI-compatible server: requests that are paced, retried, paid for once and counted.

pub mod account;
pub mod answer;
pub mod config;
pub mod endpoints;
pub mod error;
mod failure;
pub mod key;
pub mod pace;
pub mod request;
mod scoring;
pub mod store;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use account::{Account, Spending};
use answer::{Answer, Usage};
use config::RemoteConfig;
use endpoints::{Chosen, Endpoints};
use error::RemoteError;
use failure::{Failure, FailureKind, backoff};
use key::Key;
use pace::Pace;
use request::{Dialect, Input, Request, Scoring};
use stream::StreamedAnswer;

/// An answer that is larger is none.
const MOST_BYTES: usize = 64 << 20;

/// How often a server that has never answered is asked, before its address is taken for wrong.
const FIRST_CONTACTS: u32 = 2;

/// Between two looks at whether to stop.
const GLANCE: Duration = Duration::from_millis(100);

pub struct RemoteModel {
    config: RemoteConfig,
    http: reqwest::Client,
    key: Option<Key>,
    endpoints: Endpoints,
    permits: Semaphore,
    pace: Pace,
    /// Found out when the server asks for it.
    completion_tokens: AtomicBool,
    /// Found out by the first text that is scored.
    scoring: Mutex<Option<Scoring>>,
    /// Set from outside: nothing is sent any more.
    stopping: Arc<AtomicBool>,
}

/// A body as it came.
enum Body {
    Whole(Value),
    Streamed(Answer),
}

impl RemoteModel {
    /// Reads the key and sets up connections; nothing is sent yet. Once `stopping` is set, nothing new is sent.
    ///
    /// # Errors
    /// [`RemoteError::NoKey`], [`RemoteError::Setup`].
    pub fn new(config: &RemoteConfig, stopping: Arc<AtomicBool>) -> Result<Self, RemoteError> {
        let key = config.key.as_ref().map(|key| key.read()).transpose()?;
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let mut builder = reqwest::Client::builder()
            .connect_timeout(timeout.min(Duration::from_secs(30)))
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(config.concurrency);
        if config.endpoints.iter().all(|endpoint| is_local(endpoint)) {
            builder = builder.no_proxy();
        }
        if key.is_some()
            && config
                .endpoints
                .iter()
                .any(|e| e.starts_with("http:") && !is_local(e))
        {
            tracing::warn!("a key goes to an http:// address and can be read on its way");
        }
        let http = builder
            .build()
            .map_err(|error| RemoteError::Setup(error.to_string()))?;
        Ok(Self {
            config: config.clone(),
            http,
            key,
            endpoints: Endpoints::new(&config.endpoints),
            permits: Semaphore::new(config.concurrency),
            pace: Pace::new(config.requests_per_minute, config.tokens_per_minute),
            completion_tokens: AtomicBool::new(false),
            scoring: Mutex::new(None),
            stopping,
        })
    }

    pub fn model(&self) -> &str {
        &self.config.model
    }

    /// Requests that are under way at a time, at most.
    pub fn concurrency(&self) -> usize {
        self.config.concurrency
    }

    /// The answer to a request, and what it changes in the account; both belong into the store together.
    ///
    /// # Errors
    /// A server that refuses or never answers; the budget; an ability that the server does not have. Of an answer that
    /// lacks what was asked for, the answer comes with the error.
    pub async fn ask(
        &self,
        request: &Request,
        account: &Account,
    ) -> Result<(Answer, Spending), RemoteError> {
        match &request.input {
            Input::Given(given) => self.score(request, given, account).await,
            _ => {
                let read = |_: &Chosen, body: Body| match body {
                    Body::Whole(body) => Answer::read(&body),
                    Body::Streamed(answer) => Ok(answer),
                };
                self.attempts(request, account, Scoring::Echo, &read).await
            }
        }
    }

    /// Sends a request until it is answered.
    async fn attempts(
        &self,
        request: &Request,
        account: &Account,
        scoring: Scoring,
        read: &(dyn Fn(&Chosen, Body) -> Result<Answer, String> + Sync),
    ) -> Result<(Answer, Spending), RemoteError> {
        let digest = request.digest(&self.config.model);
        let most = Usage {
            input: request.estimated_input(),
            output: request.most_output(),
        };
        let reserved = most.input + most.output;
        let mut attempt = 0;
        loop {
            let dialect = Dialect {
                stream: self.config.stream,
                completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
                scoring,
            };
            let body = request.body(&self.config.model, dialect).to_string();
            let permit = self.permits.acquire().await;
            let mut reservation = account.reserve(most).await?;
            self.wait_until(self.pace.turn(reserved)).await?;
            let chosen = self
                .endpoints
                .choose()
                .ok_or_else(|| RemoteError::Setup("no endpoint".into()))?;
            if let Err(stopped) = self.wait_until(chosen.at).await {
                self.endpoints.unused(&chosen);
                return Err(stopped);
            }
            if let Err(error) = reservation.sent(attempt > 0).await {
                self.endpoints.unused(&chosen);
                return Err(error);
            }
            let result = self.send(&chosen, request.path(), body).await;
            let result =
                result.and_then(|body| read(&chosen, body).map_err(|error| self.lost(&error)));
            let failure = match result {
                Ok(mut answer) => {
                    self.endpoints.well(&chosen);
                    if let Some(key) = &self.key {
                        key.redact_answer(&mut answer);
                    }
                    answer.usage = counted(answer.usage, &answer, most);
                    let usage = answer.usage;
                    self.pace.settle(reserved, usage.input + usage.output);
                    return Ok((answer, reservation.answered(usage)));
                }
                Err(failure) => failure,
            };
            tracing::debug!("{} attempt {attempt}: {failure:?}", chosen.url);
            match failure.kind {
                FailureKind::Refused(status) => {
                    self.endpoints.well(&chosen);
                    reservation.refused().await?;
                    let wants_other_key = failure.message.contains("max_completion_tokens");
                    if wants_other_key && !dialect.completion_tokens {
                        self.completion_tokens.store(true, Ordering::Relaxed);
                        continue;
                    }
                    return Err(RemoteError::Refused {
                        endpoint: chosen.url,
                        status,
                        message: failure.message,
                    });
                }
                FailureKind::TooMany => {
                    // It is there and busy, whether or not it says for how long.
                    let wait = failure.retry_after.unwrap_or_default();
                    self.endpoints.failed(&chosen, Some(Instant::now() + wait));
                    reservation.refused().await?;
                }
                FailureKind::Connect => {
                    self.endpoints.failed(&chosen, None);
                    reservation.refused().await?;
                    let contacts = FIRST_CONTACTS + self.endpoints.count() as u32;
                    if attempt >= contacts && !self.endpoints.any_has_answered() {
                        return Err(RemoteError::Unreachable {
                            endpoint: chosen.url,
                            reason: failure.message,
                        });
                    }
                }
                FailureKind::Lost => {
                    let wait = failure.retry_after.map(|wait| Instant::now() + wait);
                    self.endpoints.failed(&chosen, wait);
                    drop(reservation);
                }
            }
            attempt += 1;
            if attempt > self.config.retries {
                return Err(RemoteError::GaveUp {
                    attempts: attempt,
                    last: format!("{}: {}", chosen.url, failure.message),
                });
            }
            drop(permit);
            let wait = backoff(self.config.backoff_seconds, attempt - 1, &digest);
            self.wait_until(Instant::now() + wait).await?;
        }
    }

    /// Sleeps, and wakes when nothing is to be sent any more.
    async fn wait_until(&self, at: Instant) -> Result<(), RemoteError> {
        loop {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(RemoteError::Stopped);
            }
            let now = Instant::now();
            if now >= at {
                return Ok(());
            }
            tokio::time::sleep_until(at.min(now + GLANCE)).await;
        }
    }

    /// One attempt.
    async fn send(&self, chosen: &Chosen, path: &str, body: String) -> Result<Body, Failure> {
        let patience = Duration::from_secs_f64(self.config.timeout_seconds);
        let late = |_| {
            let seconds = self.config.timeout_seconds;
            Failure::lost(format!("no answer within {seconds} s (`timeout_seconds`)"))
        };
        let mut sending = self
            .http
            .post(format!("{}/{path}", chosen.url))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(header) = self.key.as_ref().and_then(Key::header) {
            sending = sending.header(AUTHORIZATION, header);
        }
        let deadline = Instant::now() + patience;
        let response = timeout(patience, sending.send())
            .await
            .map_err(late)?
            .map_err(|error| Failure::of_transport(&error))?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let is_stream = content_type
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        if response.status().is_success() && is_stream {
            return self
                .read_stream(response, patience)
                .await
                .map(Body::Streamed);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let rest = deadline.saturating_duration_since(Instant::now());
        let bytes = timeout(rest, read_whole(response)).await.map_err(late)??;
        if !status.is_success() {
            let clean = |said: &str| self.redacted(said);
            return Err(Failure::of_status(status.as_u16(), &headers, &bytes, clean));
        }
        serde_json::from_slice(&bytes)
            .map(Body::Whole)
            .map_err(|error| Failure::lost(format!("an answer that is no JSON ({error})")))
    }

    async fn read_stream(
        &self,
        mut response: reqwest::Response,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let mut answer = StreamedAnswer::default();
        let mut bytes = 0;
        loop {
            let seconds = self.config.timeout_seconds;
            let late = |_| {
                Failure::lost(format!(
                    "the stream stood still for {seconds} s (`timeout_seconds`)"
                ))
            };
            let piece = timeout(patience, response.chunk()).await.map_err(late)?;
            let Some(piece) = piece.map_err(|error| Failure::of_transport(&error))? else {
                return answer.finish().map_err(|error| self.lost(&error));
            };
            bytes += piece.len();
            if bytes > MOST_BYTES {
                return Err(Failure::lost("a stream without end"));
            }
            answer.push(&piece).map_err(|error| self.lost(&error))?;
        }
    }

    fn redacted(&self, said: &str) -> String {
        match &self.key {
            Some(key) => key.redact(said),
            None => said.to_owned(),
        }
    }

    fn lost(&self, said: &str) -> Failure {
        Failure::lost(self.redacted(said))
    }
}

async fn read_whole(mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| Failure::of_transport(&error))?
    {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MOST_BYTES {
            return Err(Failure::lost("an answer without end"));
        }
    }
    Ok(bytes)
}

/// What the server has counted; where it does not count, a guess from the text.
fn counted(usage: Usage, answer: &Answer, most: Usage) -> Usage {
    if usage != Usage::default() {
        return usage;
    }
    let texts = answer
        .choices
        .iter()
        .map(|choice| choice.text.len().div_ceil(3));
    Usage {
        input: most.input,
        output: texts.sum::<usize>() as u64,
    }
}

/// On this machine itself.
fn is_local(endpoint: &str) -> bool {
    let host = reqwest::Url::parse(endpoint).ok();
    let host = host.as_ref().and_then(|url| url.host_str());
    host.is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host))
}

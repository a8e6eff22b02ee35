//! Answers to the prompts of a data set: one conversation a seed and candidate, of one turn or of several.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datasets::sample::{Message, Sample};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::asker::Asker;
use super::prompt::{PromptFile, Variables};
use super::record::{Lineage, Record};
use crate::error::TeacherError;
use crate::remote::answer::Choice;
use crate::remote::error::RemoteError;
use crate::remote::request::{Input, Request, Sampling, hex_digest};

/// What is asked for each seed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub system: Option<String>,
    /// Writes the question from the seed.
    pub prompt: Option<PromptFile>,
    /// Asks the teacher for the user's next turn.
    pub user: Option<PromptFile>,
    /// Answers of a conversation.
    pub turns: u32,
    /// Conversations of a seed.
    pub candidates: u32,
    pub sampling: Sampling,
    pub top_logprobs: Option<u32>,
    pub schema: Option<Value>,
}

/// Why a conversation is not among the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// The teacher refuses the prompt itself: too long, for one.
    Refused,
    EmptyAnswer,
    /// The server held the answer back.
    Filtered,
    /// With a schema: an answer that is no JSON object.
    NotJson,
    /// No answer came, after all retries. The same command asks again.
    NoAnswer,
}

impl Dropped {
    pub fn describe(self) -> &'static str {
        match self {
            Self::Refused => "whose prompt the teacher refuses",
            Self::EmptyAnswer => "with an empty answer",
            Self::Filtered => "whose answer the server held back",
            Self::NotJson => "whose answer is no JSON object",
            Self::NoAnswer => "that got no answer",
        }
    }
}

/// What became of the seeds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    pub seeds: usize,
    pub records: usize,
    /// Of the records, those whose answer ends at `max_tokens`.
    pub cut: usize,
    pub dropped: BTreeMap<Dropped, usize>,
    /// What the teacher said of the first of each.
    pub said: BTreeMap<Dropped, String>,
    /// Set when not all seeds were asked.
    pub stopped: bool,
}

/// After so many seeds in a row without an answer there is no server.
const OUTAGE: usize = 5;

/// Between two looks at whether to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Seeds that may be done before the one whose turn it is to be written.
const AHEAD: usize = 1024;

/// The seeds' end: records, and what is missing.
struct Answered {
    records: Vec<Record>,
    dropped: Vec<(Dropped, String)>,
}

/// Asks for all seeds and hands on the records in the order of the seeds, as they come.
///
/// `stop` is looked at all the time; `stopping` tells the teacher to send nothing more. Whatever ends this early, answers
/// under way are waited for, and kept.
///
/// # Errors
/// A teacher that cannot be asked at all, a budget that is reached, a store or a record that cannot be written.
pub async fn generate(
    asker: Arc<Asker>,
    plan: Arc<Plan>,
    seeds: &[Sample],
    stop: &AtomicBool,
    stopping: &AtomicBool,
    on_record: &mut (dyn FnMut(&Record) -> Result<(), TeacherError> + Send),
    on_seed: &mut (dyn FnMut(usize) + Send),
) -> (Outcome, Result<(), TeacherError>) {
    let mut outcome = Outcome {
        seeds: seeds.len(),
        ..Outcome::default()
    };
    let mut error: Option<TeacherError> = None;
    let mut running: JoinSet<(usize, Result<Answered, TeacherError>)> = JoinSet::new();
    // The seeds from `written` on: those that are done out of turn.
    let mut done: VecDeque<Option<Answered>> = VecDeque::new();
    let (mut started, mut written, mut silent) = (0, 0, 0);
    // Not more than may be asked at a time: what waits to be stored counts as under way, and a kill loses no more.
    let most = asker.concurrency();
    loop {
        if error.is_some() || stop.load(Ordering::Relaxed) {
            stopping.store(true, Ordering::Relaxed);
        }
        let go_on = !stopping.load(Ordering::Relaxed);
        while go_on && started < seeds.len() && running.len() < most && started - written < AHEAD {
            let (asker, plan) = (asker.clone(), plan.clone());
            let (number, sample) = (started, seeds[started].clone());
            running
                .spawn(async move { (number, answer_seed(&asker, &plan, number, &sample).await) });
            done.push_back(None);
            started += 1;
        }
        if running.is_empty() {
            break;
        }
        let Ok(joined) = tokio::time::timeout(GLANCE, running.join_next()).await else {
            continue;
        };
        match joined {
            Some(Ok((number, Ok(answered)))) => {
                let answer_came = answered
                    .dropped
                    .iter()
                    .all(|(why, _)| *why != Dropped::NoAnswer);
                silent = if answer_came { 0 } else { silent + 1 };
                if silent >= OUTAGE
                    && let Some((_, last)) = answered.dropped.last()
                {
                    let gone = format!("{last} (so it is with {OUTAGE} prompts in a row)");
                    error.get_or_insert(TeacherError::Sampling(gone));
                }
                done[number - written] = Some(answered);
            }
            Some(Ok((_, Err(found)))) => keep_first(&mut error, found),
            // A task that panicked has told why already.
            Some(Err(panicked)) => {
                let message = panicked.to_string();
                error.get_or_insert(TeacherError::Sampling(message));
            }
            None => {}
        }
        while let Some(Some(_)) = done.front() {
            let Some(Some(answered)) = done.pop_front() else {
                break;
            };
            written += 1;
            if let Err(found) = outcome.take(answered, on_record) {
                error.get_or_insert(found);
            }
            on_seed(written);
        }
    }
    outcome.stopped = written < seeds.len();
    (outcome, error.map_or(Ok(()), Err))
}

/// `Stopped` only says that something else has happened.
fn keep_first(error: &mut Option<TeacherError>, found: TeacherError) {
    if !matches!(found, TeacherError::Remote(RemoteError::Stopped)) {
        error.get_or_insert(found);
    }
}

impl Outcome {
    fn take(
        &mut self,
        answered: Answered,
        on_record: &mut (dyn FnMut(&Record) -> Result<(), TeacherError> + Send),
    ) -> Result<(), TeacherError> {
        for (why, said) in answered.dropped {
            *self.dropped.entry(why).or_default() += 1;
            self.said.entry(why).or_insert(said);
        }
        for record in &answered.records {
            on_record(record)?;
            self.records += 1;
            self.cut += usize::from(record.lineage.finish_reason == "length");
        }
        Ok(())
    }
}

/// All conversations of one seed. Errors are those that end the whole stage.
async fn answer_seed(
    asker: &Asker,
    plan: &Plan,
    number: usize,
    sample: &Sample,
) -> Result<Answered, TeacherError> {
    let variables = Variables::of(sample, plan.system.as_deref());
    let opening = match &plan.prompt {
        Some(prompt) => variables.with_prompt(prompt.render(&variables)?),
        None => variables.messages.clone(),
    };
    let mut answered = Answered {
        records: Vec::new(),
        dropped: Vec::new(),
    };
    let described = serde_json::to_vec(sample).unwrap_or_default();
    let lineage = Lineage {
        seed: number,
        seed_digest: hex_digest(&described),
        candidate: 0,
        model: asker.model(),
        prompt: plan.prompt.as_ref().map(PromptFile::digest),
        user: plan.user.as_ref().map(PromptFile::digest),
        parameters: plan.sampling.clone(),
        requests: Vec::new(),
        finish_reason: String::new(),
    };
    let mut candidate = 0;
    while candidate < plan.candidates {
        // A server may give fewer answers than it is asked for: the rest is asked for again.
        let left = plan.candidates - candidate;
        let request = plan.request(opening.clone(), left, candidate);
        let asked = match asker.ask(&request).await {
            Ok(asked) => asked,
            Err(error) => {
                let why = dropped_by(error)?;
                answered.dropped.extend((0..left).map(|_| why.clone()));
                return Ok(answered);
            }
        };
        for choice in asked.answer.choices.into_iter().take(left as usize) {
            let lineage = Lineage {
                candidate,
                requests: vec![asked.key.clone()],
                ..lineage.clone()
            };
            let begun = Conversation {
                messages: opening.clone(),
                lineage,
                logprobs: Vec::new(),
            };
            match begun.finish(asker, plan, choice, &variables).await? {
                Ok(record) => answered.records.push(record),
                Err(why) => answered.dropped.push(why),
            }
            candidate += 1;
        }
    }
    Ok(answered)
}

/// The reason for which one seed is left out, or the error that ends all.
fn dropped_by(error: TeacherError) -> Result<(Dropped, String), TeacherError> {
    let why = match &error {
        TeacherError::Remote(remote) if remote.is_of_the_request() => Dropped::Refused,
        TeacherError::Remote(remote) if remote.is_passing() => Dropped::NoAnswer,
        TeacherError::EmptyPrompt { .. } | TeacherError::PromptTooLong { .. } => Dropped::Refused,
        _ => return Err(error),
    };
    Ok((why, error.to_string()))
}

struct Conversation {
    messages: Vec<Message>,
    lineage: Lineage,
    logprobs: Vec<crate::remote::answer::TokenLogprob>,
}

impl Conversation {
    /// Goes on from the first answer to the last turn.
    async fn finish(
        mut self,
        asker: &Asker,
        plan: &Plan,
        first: Choice,
        seed: &Variables,
    ) -> Result<Result<Record, (Dropped, String)>, TeacherError> {
        let candidate = self.lineage.candidate;
        let mut choice = first;
        for turn in 1.. {
            if let Err(why) = self.answer(choice, plan) {
                return Ok(Err(why));
            }
            let Some(user) = plan.user.as_ref().filter(|_| turn < plan.turns) else {
                break;
            };
            let variables = Variables {
                messages: self.messages.clone(),
                ..seed.clone()
            };
            let question = vec![Message::new("user", user.render(&variables)?)];
            let request = Request {
                schema: None,
                top_logprobs: None,
                ..plan.request(question, 1, candidate)
            };
            let question = match self.ask(asker, &request).await? {
                Ok(choice) => choice.text.trim().to_owned(),
                Err(why) => return Ok(Err(why)),
            };
            if question.is_empty() {
                let said = "the teacher had no further question".to_owned();
                return Ok(Err((Dropped::EmptyAnswer, said)));
            }
            self.messages.push(Message::new("user", question));
            let request = plan.request(self.messages.clone(), 1, candidate);
            choice = match self.ask(asker, &request).await? {
                Ok(choice) => choice,
                Err(why) => return Ok(Err(why)),
            };
        }
        Ok(Ok(Record {
            messages: self.messages,
            lineage: self.lineage,
            logprobs: self.logprobs,
        }))
    }

    async fn ask(
        &mut self,
        asker: &Asker,
        request: &Request,
    ) -> Result<Result<Choice, (Dropped, String)>, TeacherError> {
        match asker.ask(request).await {
            Ok(asked) => {
                self.lineage.requests.push(asked.key);
                Ok(Ok(asked
                    .answer
                    .choices
                    .into_iter()
                    .next()
                    .unwrap_or_default()))
            }
            Err(error) => dropped_by(error).map(Err),
        }
    }

    fn answer(&mut self, choice: Choice, plan: &Plan) -> Result<(), (Dropped, String)> {
        let reason = choice.finish_reason.unwrap_or_default();
        if reason == "content_filter" {
            return Err((Dropped::Filtered, reason));
        }
        if choice.text.trim().is_empty() {
            return Err((Dropped::EmptyAnswer, format!("it ends with `{reason}`")));
        }
        if plan.schema.is_some() {
            let parsed: Result<serde_json::Map<String, Value>, _> =
                serde_json::from_str(&choice.text);
            parsed.map_err(|error| (Dropped::NotJson, error.to_string()))?;
        }
        self.messages.push(Message::new("assistant", choice.text));
        self.lineage.finish_reason = reason;
        self.logprobs = choice.logprobs;
        Ok(())
    }
}

impl Plan {
    /// Asks for candidates from number `first` on; each draws with a seed of its own.
    fn request(&self, messages: Vec<Message>, candidates: u32, first: u32) -> Request {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling
            .seed
            .map(|seed| seed.wrapping_add(u64::from(first)));
        Request {
            input: Input::Chat(messages),
            sampling,
            candidates,
            top_logprobs: self.top_logprobs,
            schema: self.schema.clone(),
        }
    }
}

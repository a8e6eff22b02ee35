//! Asks for many seeds at a time and hands on what comes of them in the order of the seeds.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::error::TeacherError;
use crate::remote::error::RemoteError;

/// Why a conversation is not among the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// The teacher refuses the prompt itself: too long, for one.
    Refused,
    EmptyAnswer,
    /// The server held the answer back.
    Filtered,
    /// With a schema: an answer that is no JSON object.
    NotJson,
    /// Of instructions, from here on. An answer that lists none.
    NotAList,
    /// The last of an answer that ends at `max_tokens`.
    Cut,
    TooShort,
    TooLong,
    /// It names what text alone cannot show.
    Forbidden,
    /// Too much like one that is there.
    Similar,
    /// An evolved one says no more than what it was made of.
    Unchanged,
    /// Whether it says more is not told.
    Undecided,
    /// It repeats words of the prompt that asked for it.
    CopiesPrompt,
    /// The teacher apologises in place of an answer.
    Apology,
    /// The answer has no words but stop words.
    NoContent,
    /// An answer in which no rating, or more than one, is found.
    NoRating,
    /// A rating that is no number of the scale.
    OutOfRange,
    /// A comparison without a verdict, or with several.
    NoVerdict,
    /// An answer without a score, or with one that is out of range.
    NoScore,
    /// Code that Python cannot read.
    NotPython,
    /// Code that is something other than one function, perhaps after imports.
    WrongShape,
    NoDocstring,
    /// A function that does nothing.
    NoBody,
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
            Self::NotAList => "whose answer is no numbered list",
            Self::Cut => "that end at `max_tokens`",
            Self::TooShort => "that are too short",
            Self::TooLong => "that are too long",
            Self::Forbidden => "that name what is not text",
            Self::Similar => "that are much like another",
            Self::Unchanged => "that say nothing new",
            Self::Undecided => "of which it is not told whether they say anything new",
            Self::CopiesPrompt => "that copy words of the prompt",
            Self::Apology => "that the teacher is sorry not to answer",
            Self::NoContent => "whose answer says nothing",
            Self::NoRating => "without a rating of each aspect",
            Self::OutOfRange => "whose ratings are not all whole numbers from 1 to 5",
            Self::NoVerdict => "without one verdict",
            Self::NoScore => "whose answer has no score that counts",
            Self::NotPython => "whose answer is no Python",
            Self::WrongShape => "whose answer is not one function",
            Self::NoDocstring => "whose function has no docstring",
            Self::NoBody => "whose function does nothing",
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
    /// Seeds of which an answer is missing.
    pub unanswered: usize,
    /// What the teacher said of the first of each.
    pub said: BTreeMap<Dropped, String>,
    /// Set when not all seeds were asked.
    pub stopped: bool,
}

/// Whom an asking hears, and tells what comes of it.
pub struct Recording<'a, R> {
    /// Set from outside.
    pub stop: &'a AtomicBool,
    /// Tells the teacher to send nothing more.
    pub stopping: &'a AtomicBool,
    /// Seeds that may stay without an answer.
    pub allow_failed: usize,
    pub on_record: &'a mut (dyn FnMut(&R) -> Result<(), TeacherError> + Send),
    /// How many are done.
    pub on_seed: &'a mut (dyn FnMut(usize) + Send),
}

/// After so many seeds in a row without an answer, and more than may be missing, there is no server.
const OUTAGE: usize = 5;

/// Between two looks at whether to stop.
const GLANCE: Duration = Duration::from_millis(100);

/// Seeds that may be done before the one whose turn it is to be written.
const AHEAD: usize = 1024;

/// What came of one seed: records, and what is missing.
#[derive(Debug)]
pub struct Answered<R> {
    pub records: Vec<R>,
    /// Of the records, those whose answer ends at `max_tokens`.
    pub cut: usize,
    pub dropped: Vec<(Dropped, String)>,
}

impl<R> Answered<R> {
    fn lacks_an_answer(&self) -> bool {
        let mut dropped = self.dropped.iter();
        dropped.any(|(why, _)| *why == Dropped::NoAnswer)
    }
}

impl<R> Default for Answered<R> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            cut: 0,
            dropped: Vec::new(),
        }
    }
}

/// Asks for the seeds `0..seeds`, `at_a_time` of them, and hands on their records in the order of the seeds, as they come.
///
/// `at_a_time` is no more than may be asked at a time: what waits to be stored counts as under way, and a kill loses no more.
/// Whatever ends this early, answers under way are waited for, and kept.
///
/// # Errors
/// Those of `ask`, which end all: a teacher that cannot be asked, a budget that is reached, a store that cannot be written;
/// a record that cannot be written; many seeds in a row without an answer, and more of them than may be missing.
pub async fn ask_in_order<R, Work>(
    seeds: usize,
    at_a_time: usize,
    ask: &(dyn Fn(usize) -> Work + Sync),
    recording: Recording<'_, R>,
) -> (Outcome, Result<(), TeacherError>)
where
    R: Send + 'static,
    Work: Future<Output = Result<Answered<R>, TeacherError>> + Send + 'static,
{
    let Recording {
        stop,
        stopping,
        allow_failed,
        on_record,
        on_seed,
    } = recording;
    let mut outcome = Outcome {
        seeds,
        ..Outcome::default()
    };
    let mut error: Option<TeacherError> = None;
    let mut running: JoinSet<(usize, Result<Answered<R>, TeacherError>)> = JoinSet::new();
    // The seeds from `written` on: those that are done out of turn.
    let mut done: VecDeque<Option<Answered<R>>> = VecDeque::new();
    let (mut started, mut written) = (0, 0);
    let (mut failed, mut silent) = (0, 0);
    loop {
        if error.is_some() || stop.load(Ordering::Relaxed) {
            stopping.store(true, Ordering::Relaxed);
        }
        let go_on = !stopping.load(Ordering::Relaxed);
        while go_on && started < seeds && running.len() < at_a_time && started - written < AHEAD {
            let (number, work) = (started, ask(started));
            running.spawn(async move { (number, work.await) });
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
                let lacks = answered.lacks_an_answer();
                failed += usize::from(lacks);
                silent = if lacks { silent + 1 } else { 0 };
                if silent >= OUTAGE
                    && failed > allow_failed
                    && let Some((_, last)) = answered.dropped.last()
                {
                    let gone = format!("{last} (so it is with {silent} prompts in a row)");
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
    outcome.stopped = written < seeds;
    (outcome, error.map_or(Ok(()), Err))
}

/// `Stopped` only says that something else has happened.
fn keep_first(error: &mut Option<TeacherError>, found: TeacherError) {
    if !matches!(found, TeacherError::Remote(RemoteError::Stopped)) {
        error.get_or_insert(found);
    }
}

impl Outcome {
    pub fn drop(&mut self, why: Dropped, said: String) {
        *self.dropped.entry(why).or_default() += 1;
        self.said.entry(why).or_insert(said);
    }

    /// Adds the drops of a round of requests, whose records are no records yet.
    pub fn add(&mut self, round: Outcome) {
        self.seeds += round.seeds;
        self.stopped |= round.stopped;
        self.unanswered += round.unanswered;
        for (why, count) in round.dropped {
            *self.dropped.entry(why).or_default() += count;
        }
        for (why, said) in round.said {
            self.said.entry(why).or_insert(said);
        }
    }

    fn take<R>(
        &mut self,
        answered: Answered<R>,
        on_record: &mut (dyn FnMut(&R) -> Result<(), TeacherError> + Send),
    ) -> Result<(), TeacherError> {
        self.unanswered += usize::from(answered.lacks_an_answer());
        for (why, said) in answered.dropped {
            self.drop(why, said);
        }
        self.cut += answered.cut;
        for record in &answered.records {
            on_record(record)?;
            self.records += 1;
        }
        Ok(())
    }
}

/// The reason for which one seed is left out.
///
/// # Errors
/// What ends the whole stage.
pub fn dropped_by(error: TeacherError) -> Result<(Dropped, String), TeacherError> {
    let why = match &error {
        TeacherError::Remote(remote) if remote.is_of_the_request() => Dropped::Refused,
        TeacherError::Remote(remote) if remote.is_passing() => Dropped::NoAnswer,
        TeacherError::EmptyPrompt { .. } | TeacherError::PromptTooLong { .. } => Dropped::Refused,
        _ => return Err(error),
    };
    Ok((why, error.to_string()))
}

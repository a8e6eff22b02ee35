//! Answers to the prompts of a data set: one conversation a seed and candidate, of one turn or of several.

use datasets::sample::{Message, Sample};
use serde_json::Value;

use super::asker::Asker;
use super::in_order::{Answered, Dropped, dropped_by};
use super::prompt::{PromptFile, Variables};
use super::record::{Lineage, Record};
use super::spoken::Spoken;
use crate::error::TeacherError;
use crate::remote::answer::{CUT_NOTE, Choice};
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

impl Plan {
    /// One question a candidate, and its answer.
    pub fn question(
        prompt: Option<PromptFile>,
        candidates: u32,
        sampling: Sampling,
        schema: Option<Value>,
    ) -> Self {
        Self {
            system: None,
            prompt,
            user: None,
            turns: 1,
            candidates,
            sampling,
            top_logprobs: None,
            schema,
        }
    }
}

/// All conversations of one seed.
///
/// # Errors
/// Those that end the whole stage.
pub async fn answer_seed(
    asker: &Asker,
    plan: &Plan,
    number: usize,
    sample: &Sample,
) -> Result<Answered<Record>, TeacherError> {
    let variables = Variables::of(sample, plan.system.as_deref());
    let opening = match &plan.prompt {
        Some(prompt) => variables.with_prompt(prompt.render(&variables)?),
        None => variables.messages.clone(),
    };
    let mut answered = Answered::default();
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
    let (mut candidate, mut at_a_time) = (0, plan.candidates);
    while candidate < plan.candidates {
        // A server may give fewer answers than it is asked for: the rest is asked for again.
        let left = plan.candidates - candidate;
        let wanted = left.min(at_a_time);
        let request = plan.request(opening.clone(), wanted, candidate);
        let asked = match asker.ask(&request).await {
            Ok(asked) => asked,
            // Perhaps for their number: llama.cpp gives no more at a time than it has slots.
            Err(TeacherError::Remote(error)) if wanted > 1 && error.is_of_the_request() => {
                at_a_time = wanted / 2;
                continue;
            }
            Err(error) => {
                let why = dropped_by(error)?;
                answered.dropped.extend((0..left).map(|_| why.clone()));
                return Ok(answered);
            }
        };
        for choice in asked.answer.choices.into_iter().take(wanted as usize) {
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
                Ok(record) => {
                    answered.cut += usize::from(record.is_cut());
                    answered.records.push(record);
                }
                Err(why) => answered.dropped.push(why),
            }
            candidate += 1;
        }
    }
    Ok(answered)
}

impl Answered<Record> {
    /// What is read out of the answers; those that hold nothing of the kind are dropped with the reason.
    pub fn parsed<R>(self, read: impl Fn(Record) -> Result<R, (Dropped, String)>) -> Answered<R> {
        let mut parsed = Answered {
            dropped: self.dropped,
            ..Answered::default()
        };
        for record in self.records {
            let is_cut = record.is_cut();
            match read(record) {
                Ok(found) => {
                    parsed.records.push(found);
                    parsed.cut += usize::from(is_cut);
                }
                Err((why, said)) if is_cut && why != Dropped::Cut => {
                    parsed.dropped.push((why, said + CUT_NOTE));
                }
                Err(why) => parsed.dropped.push(why),
            }
        }
        parsed
    }
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
            let spoken = self.ask(asker, &request).await?.and_then(Spoken::of);
            let question = match spoken {
                Ok(Spoken { text, is_cut: true }) => return Ok(Err((Dropped::Cut, text))),
                Ok(spoken) => spoken.text.trim().to_owned(),
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
        if self.lineage.finish_reason != "length" {
            self.lineage.finish_reason = reason;
        }
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

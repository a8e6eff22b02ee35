//! Requests for a model on this machine: many askers, one who generates, as many together as come together.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use model::generate::sampling::SamplingConfig;
use tokio::sync::oneshot;

use crate::error::TeacherError;
use crate::generation::{Completion, FinishReason, GenerationRequest, Prompt};
use crate::local::LocalTeacher;
use crate::remote::answer::{Answer, Choice, Usage};
use crate::remote::request::{Input, Request, Sampling};

/// Texts that are written together.
pub const AT_A_TIME: usize = 16;

/// How long the first of a batch waits for the others.
const GATHERING: Duration = Duration::from_millis(5);

/// Where requests go in.
pub struct LocalQueue(Sender<Job>);

/// Where they are answered.
pub struct Jobs(Receiver<Job>);

struct Job {
    request: Request,
    reply: oneshot::Sender<Result<Answer, TeacherError>>,
}

pub fn local_queue() -> (LocalQueue, Jobs) {
    let (sender, receiver) = channel();
    (LocalQueue(sender), Jobs(receiver))
}

impl LocalQueue {
    /// # Errors
    /// What the model cannot be asked, or cannot do with this prompt.
    pub async fn ask(&self, request: &Request) -> Result<Answer, TeacherError> {
        let (reply, answer) = oneshot::channel();
        let request = request.clone();
        let gone = || TeacherError::Sampling("the model on this machine has stopped".into());
        self.0.send(Job { request, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A job whose prompt can be continued.
struct Ready {
    ids: Vec<u32>,
    job: Job,
}

impl Jobs {
    /// Answers until all askers are gone.
    pub fn serve(self, teacher: &LocalTeacher) {
        let mut waiting: VecDeque<Job> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match self.0.recv() {
                    Ok(job) => waiting.push_back(job),
                    Err(_) => return,
                }
            }
            while waiting.len() < AT_A_TIME
                && let Ok(job) = self.0.recv_timeout(GATHERING)
            {
                waiting.push_back(job);
            }
            answer_some(teacher, &mut waiting);
        }
    }
}

/// Answers the first job and those that are to be sampled alike.
fn answer_some(teacher: &LocalTeacher, waiting: &mut VecDeque<Job>) {
    let Some(sampling) = waiting.front().map(|job| unseeded(&job.request.sampling)) else {
        return;
    };
    let mut batch: Vec<Ready> = Vec::new();
    let mut rest = VecDeque::new();
    let mut texts = 0;
    while let Some(job) = waiting.pop_front() {
        let alike = unseeded(&job.request.sampling) == sampling;
        if !alike || (texts > 0 && texts + job.request.candidates as usize > AT_A_TIME) {
            rest.push_back(job);
            continue;
        }
        texts += job.request.candidates as usize;
        match prompt_ids(teacher, &job.request) {
            Ok(ids) => batch.push(Ready { ids, job }),
            Err(error) => reply(job, Err(error)),
        }
    }
    *waiting = rest;
    let request = GenerationRequest {
        sampling: SamplingConfig {
            temperature: sampling.temperature as f32,
            top_p: sampling.top_p as f32,
            ..SamplingConfig::default()
        },
        max_new_tokens: sampling.max_tokens as usize,
        stop: sampling.stop,
        seed: 0,
    };
    let (mut prompts, mut seeds) = (Vec::new(), Vec::new());
    for Ready { ids, job } in &batch {
        for candidate in 0..u64::from(job.request.candidates) {
            prompts.push(ids.clone());
            let seed = job.request.sampling.seed.unwrap_or(0);
            seeds.push(seed.wrapping_add(candidate));
        }
    }
    match teacher.generate_seeded(&prompts, &seeds, &request) {
        Ok(completions) => {
            let mut completions = completions.into_iter();
            for Ready { ids, job } in batch {
                let own = completions.by_ref().take(job.request.candidates as usize);
                let answer = answer(ids.len(), own.collect());
                reply(job, Ok(answer));
            }
        }
        Err(error) => {
            let message = error.to_string();
            for Ready { job, .. } in batch {
                reply(job, Err(TeacherError::Sampling(message.clone())));
            }
        }
    }
}

fn reply(job: Job, answer: Result<Answer, TeacherError>) {
    // Who asked may have gone away.
    let _ = job.reply.send(answer);
}

fn unseeded(sampling: &Sampling) -> Sampling {
    Sampling {
        seed: None,
        ..sampling.clone()
    }
}

fn prompt_ids(teacher: &LocalTeacher, request: &Request) -> Result<Vec<u32>, TeacherError> {
    let only_remote = |what, hint| Err(TeacherError::OnlyRemote { what, hint });
    if request.top_logprobs.is_some() {
        return only_remote(
            "`logprobs`",
            "leave it out: `distill` sees all log-probabilities of a local teacher",
        );
    }
    if request.schema.is_some() {
        return only_remote("`schema`", "leave it out, and ask for JSON in the prompt");
    }
    let prompt = match &request.input {
        Input::Chat(messages) => Prompt::Conversation(messages.clone()),
        Input::Text(text) => Prompt::Text(text.clone()),
        Input::Given(_) => return only_remote("scoring a given text here", "see `distill score`"),
    };
    teacher.prompt_ids(None, &prompt)
}

fn answer(input: usize, completions: Vec<Completion>) -> Answer {
    let output = completions
        .iter()
        .map(|completion| completion.ids.len() as u64)
        .sum();
    let choice = |completion: Completion| Choice {
        text: completion.text,
        finish_reason: Some(match completion.finish_reason {
            FinishReason::Length => "length".into(),
            FinishReason::EndOfSequence | FinishReason::Stop => "stop".into(),
        }),
        logprobs: Vec::new(),
    };
    Answer {
        choices: completions.into_iter().map(choice).collect(),
        usage: Usage {
            input: input as u64,
            output,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tokenizer::{tiny_decoder, word_tokenizer};

    fn request(text: &str, candidates: u32, seed: u64) -> Request {
        Request {
            input: Input::Text(text.into()),
            sampling: Sampling {
                temperature: 1.0,
                max_tokens: 5,
                seed: Some(seed),
                ..Sampling::default()
            },
            candidates,
            top_logprobs: None,
            schema: None,
        }
    }

    #[test]
    fn what_is_written_follows_from_prompt_and_seed_alone() {
        let words = ["a ", "b ", "c ", "d ", "e ", "f ", "g ", "h "];
        let teacher = LocalTeacher::new(tiny_decoder(16, 12), word_tokenizer(&words)).unwrap();
        let (queue, jobs) = local_queue();
        std::thread::scope(|scope| {
            scope.spawn(|| jobs.serve(&teacher));
            let queue = queue;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let both = queue.ask(&request("a b ", 2, 3)).await.unwrap();
                assert_eq!(
                    both.usage,
                    Usage {
                        input: 2,
                        output: 10
                    }
                );
                let second = queue.ask(&request("a b ", 1, 4)).await.unwrap();
                assert_eq!(both.choices[1], second.choices[0]);
                let empty = queue.ask(&request("", 1, 4)).await.unwrap_err();
                assert!(
                    empty.to_string().starts_with("the prompt has no tokens"),
                    "{empty}"
                );
                let mut scored = request("a b ", 1, 4);
                scored.top_logprobs = Some(1);
                let error = queue.ask(&scored).await.unwrap_err().to_string();
                assert!(error.contains("needs a remote teacher"), "{error}");
            });
        });
    }
}

//! Log-probabilities of given texts, in the way that a server knows: `prompt_logprobs`, or `echo` with `logprobs`.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::account::{Account, Spending};
use super::answer::{Answer, Choice, TokenLogprob, read_logprobs, read_prompt_logprobs};
use super::endpoints::Chosen;
use super::error::RemoteError;
use super::request::{Given, Request, Scoring};
use super::{Body, RemoteModel};

impl RemoteModel {
    /// Log-probabilities of a given text, in the way that the server knows.
    pub(super) async fn score(
        &self,
        request: &Request,
        given: &Given,
        account: &Account,
    ) -> Result<(Answer, Spending), RemoteError> {
        let known = *self.scoring.lock().unwrap_or_else(PoisonError::into_inner);
        let ways = match known {
            Some(way) => vec![way],
            None => vec![Scoring::PromptLogprobs, Scoring::Echo],
        };
        let mut asked = None;
        for way in ways {
            let endpoint = Mutex::new(String::new());
            let read = |chosen: &Chosen, body: Body| {
                *endpoint.lock().unwrap_or_else(PoisonError::into_inner) = chosen.url.clone();
                let Body::Whole(body) = body else {
                    return Err("a stream where none was asked for".to_owned());
                };
                let usage = Answer::read(&body)?.usage;
                let mut logprobs = scored(&body, given, way).unwrap_or_default();
                if request.top_logprobs.is_none() {
                    // A server lists the token itself; of long texts that is half of what is stored.
                    logprobs.iter_mut().for_each(|token| token.top.clear());
                }
                let choices = vec![Choice {
                    logprobs,
                    ..Choice::default()
                }];
                Ok(Answer { choices, usage })
            };
            let place = || {
                let endpoint = endpoint.lock().unwrap_or_else(PoisonError::into_inner);
                endpoint.clone()
            };
            let (answer, spent) = match self.attempts(request, account, way, &read).await {
                Ok(answered) => answered,
                // A server that does not know a parameter may refuse it; one that knows it refuses the text.
                Err(RemoteError::Refused {
                    status: 400 | 422 | 501,
                    message,
                    endpoint,
                }) if known.is_none() => {
                    asked = Some((endpoint, format!(" (it says: {message})")));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let tokens = (answer.choices.iter()).flat_map(|choice| &choice.logprobs);
            if tokens.clone().next().is_none() {
                account.store().note(account.stage(), spent).await?;
                asked = Some((place(), String::new()));
                continue;
            }
            if let Given::Ids(ids) = given
                && let Some((position, sent, told)) = difference(ids, tokens)
            {
                account.store().note(account.stage(), spent).await?;
                return Err(RemoteError::OtherTokens {
                    endpoint: place(),
                    position,
                    sent,
                    told,
                });
            }
            *self.scoring.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
            return Ok((answer, spent));
        }
        let (endpoint, said) = asked.unwrap_or_default();
        let task = match request.top_logprobs {
            Some(top) if top > 0 => {
                format!("tell the {top} most probable tokens at each place of a given text")
            }
            _ => "score a given text".to_owned(),
        };
        Err(RemoteError::Unable {
            endpoint,
            what: format!("{task}: it knows neither `prompt_logprobs` nor `echo` with `logprobs`{said}"),
            hint: "vLLM and SGLang can; for llama.cpp, take its GGUF file itself as the model: it is scored on this machine".into(),
        })
    }
}

/// The log-probabilities of a given text in a server's answer; None where there are none.
fn scored(body: &Value, given: &Given, way: Scoring) -> Option<Vec<TokenLogprob>> {
    let choice = &body["choices"][0];
    let ids = match given {
        Given::Ids(ids) => Some(ids.as_slice()),
        Given::Text(_) => None,
    };
    match way {
        Scoring::PromptLogprobs => {
            let entries = choice
                .get("prompt_logprobs")
                .or(body.get("prompt_logprobs"))?;
            let mut tokens = read_prompt_logprobs(entries.as_array()?, ids)?;
            if ids.is_some() {
                tokens.iter_mut().for_each(forget_texts);
            }
            Some(tokens)
        }
        Scoring::Echo => {
            let mut tokens = read_logprobs(&choice["logprobs"]);
            let length = match given {
                Given::Ids(ids) => ids.len(),
                Given::Text(text) => tokens_of(&tokens, text)?,
            };
            if length == 0 || tokens.first()?.logprob.is_some() {
                return None;
            }
            tokens.truncate(length);
            for (token, &id) in tokens.iter_mut().zip(ids.unwrap_or_default()) {
                token.id.get_or_insert(id);
                forget_texts(token);
            }
            Some(tokens)
        }
    }
}

/// Of tokens that are known by their ids: a list for each place of a text is large.
fn forget_texts(token: &mut TokenLogprob) {
    let known = token.top.iter_mut().filter(|other| other.id.is_some());
    known.for_each(|other| other.token.clear());
}

/// The first place where the server has another token than was sent: what was sent and what it has.
fn difference<'a>(
    ids: &[u32],
    told: impl Iterator<Item = &'a TokenLogprob>,
) -> Option<(usize, String, String)> {
    let told: Vec<Option<u32>> = told.map(|token| token.id).collect();
    let at = (0..ids.len().max(told.len()))
        .find(|at| ids.get(*at) != told.get(*at).and_then(|id| id.as_ref()))?;
    let named =
        |id: Option<u32>| id.map_or_else(|| "no token".to_owned(), |id| format!("token {id}"));
    Some((
        at,
        named(ids.get(at).copied()),
        named(told.get(at).copied().flatten()),
    ))
}

/// How many of the first tokens make up the text.
fn tokens_of(tokens: &[TokenLogprob], text: &str) -> Option<usize> {
    let mut bytes = 0;
    for (at, token) in tokens.iter().enumerate() {
        if bytes >= text.len() {
            return Some(at);
        }
        // The token that opens a text stands in no text.
        let opens = at == 0 && !text.starts_with(&token.token);
        bytes += if opens { 0 } else { token.token.len() };
    }
    (bytes >= text.len()).then_some(tokens.len())
}

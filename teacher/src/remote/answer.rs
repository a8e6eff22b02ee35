//! What a server answers, read leniently: servers differ in what they leave out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// In the order of their numbers.
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub text: String,
    /// As the server says it: `stop`, `length`, `content_filter`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// Of every token that was written, or, of a text that was given, of every token of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

/// A sparse signal: a token's log-probability (nats), and those of the best tokens at its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    /// Where the text does not say them: a part of a character, an end of a turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    /// Where the server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// None for the first token of a text that was given.
    pub logprob: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TopToken>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopToken {
    /// Empty where the id says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// As in [`TokenLogprob`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    pub logprob: f64,
}

/// Tokens that were read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
}

impl Answer {
    /// Reads the body of an answer to a chat or text completion.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn read(body: &Value) -> Result<Self, String> {
        if let Some(error) = error_message(body) {
            return Err(format!("an error in place of an answer: {error}"));
        }
        let Some(choices) = body.get("choices").and_then(Value::as_array) else {
            return Err("an answer without `choices`".into());
        };
        let number =
            |(at, choice): &(usize, &Value)| choice["index"].as_u64().unwrap_or(*at as u64);
        let mut numbered: Vec<(usize, &Value)> = choices.iter().enumerate().collect();
        numbered.sort_by_key(number);
        let choices: Vec<Choice> = (numbered.iter())
            .map(|(_, choice)| Choice::read(choice))
            .collect();
        if choices.is_empty() {
            return Err("an answer whose `choices` are empty".into());
        }
        let usage = Usage::read(body).unwrap_or_default();
        Ok(Self { choices, usage })
    }
}

/// What an error about something missing in a text adds: it may stand in what was cut off.
pub const CUT_NOTE: &str = "; the answer is cut at `max_tokens`";

impl Choice {
    /// [`CUT_NOTE`], where it is true.
    pub fn cut_note(&self) -> &'static str {
        match self.finish_reason.as_deref() {
            Some("length") => CUT_NOTE,
            _ => "",
        }
    }

    fn read(choice: &Value) -> Self {
        let text = match choice.get("message") {
            Some(message) => &message["content"],
            None => &choice["text"],
        };
        Self {
            text: text.as_str().unwrap_or_default().to_owned(),
            finish_reason: choice["finish_reason"].as_str().map(str::to_owned),
            logprobs: read_logprobs(&choice["logprobs"]),
        }
    }
}

impl Usage {
    /// None where the server does not count.
    pub fn read(body: &Value) -> Option<Self> {
        let usage = body.get("usage")?;
        Some(Self {
            input: usage.get("prompt_tokens")?.as_u64()?,
            output: usage["completion_tokens"].as_u64().unwrap_or(0),
        })
    }
}

/// The message of an error, wherever a server puts it.
pub fn error_message(body: &Value) -> Option<String> {
    let error = body.get("error").filter(|error| !error.is_null())?;
    let message = error.get("message").unwrap_or(error);
    Some(match message {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

/// `{content: […]}` of a chat, `{tokens, token_logprobs, top_logprobs}` of a text.
pub fn read_logprobs(logprobs: &Value) -> Vec<TokenLogprob> {
    if let Some(content) = logprobs["content"].as_array() {
        return content.iter().filter_map(read_token).collect();
    }
    let Some(tokens) = logprobs["tokens"].as_array() else {
        return Vec::new();
    };
    (tokens.iter().enumerate())
        .map(|(at, token)| {
            let (token, id) = token_and_id(token);
            let top = logprobs["top_logprobs"][at].as_object();
            let top = top.into_iter().flatten().filter_map(|(token, logprob)| {
                let (token, id) = named_token(token);
                Some(TopToken {
                    token,
                    bytes: None,
                    id,
                    logprob: logprob.as_f64()?,
                })
            });
            TokenLogprob {
                token,
                bytes: None,
                id,
                logprob: logprobs["token_logprobs"][at].as_f64(),
                top: top.collect(),
            }
        })
        .collect()
}

fn read_token(entry: &Value) -> Option<TokenLogprob> {
    let (token, id) = token_and_id(&entry["token"]);
    let own_id = |entry: &Value| entry["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    let top = entry["top_logprobs"].as_array();
    let top = top.into_iter().flatten().filter_map(|other| {
        let (token, id) = token_and_id(&other["token"]);
        Some(TopToken {
            bytes: other_bytes(other, &token),
            token,
            id: own_id(other).or(id),
            logprob: other["logprob"].as_f64()?,
        })
    });
    Some(TokenLogprob {
        bytes: other_bytes(entry, &token),
        token,
        id: own_id(entry).or(id),
        logprob: Some(entry["logprob"].as_f64()?),
        top: top.collect(),
    })
}

/// What `bytes` says, where the token's text says something else.
fn other_bytes(entry: &Value, token: &str) -> Option<Vec<u8>> {
    let bytes = entry["bytes"].as_array()?.iter();
    let bytes = bytes.map(|byte| u8::try_from(byte.as_u64()?).ok());
    bytes
        .collect::<Option<Vec<u8>>>()
        .filter(|bytes| bytes != token.as_bytes())
}

fn token_and_id(token: &Value) -> (String, Option<u32>) {
    named_token(token.as_str().unwrap_or_default())
}

/// Some servers write `token_id:17` in place of the token.
fn named_token(token: &str) -> (String, Option<u32>) {
    let id = token
        .strip_prefix("token_id:")
        .and_then(|id| id.parse().ok());
    (token.to_owned(), id)
}

/// vLLM's `prompt_logprobs`: for every token of the text a table from ids to log-probabilities, its own token first. `ids`
/// are those that are expected; where a table lacks one, its first is taken.
pub fn read_prompt_logprobs(entries: &[Value], ids: Option<&[u32]>) -> Option<Vec<TokenLogprob>> {
    let tokens = entries.iter().enumerate().map(|(at, entry)| {
        let wanted = ids.and_then(|ids| ids.get(at)).copied();
        let Some(table) = entry.as_object() else {
            // Nothing comes before the first token.
            return (at == 0).then(|| TokenLogprob {
                token: String::new(),
                bytes: None,
                id: wanted,
                logprob: None,
                top: Vec::new(),
            });
        };
        let read = |(id, value): (&String, &Value)| {
            Some(TopToken {
                token: value["decoded_token"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                bytes: None,
                id: Some(id.parse().ok()?),
                logprob: value["logprob"].as_f64()?,
            })
        };
        let all: Vec<TopToken> = table.iter().filter_map(read).collect();
        let own = match wanted {
            Some(id) => all.iter().find(|token| token.id == Some(id)),
            None => None,
        };
        let own = own.or(all.first())?;
        Some(TokenLogprob {
            token: own.token.clone(),
            bytes: None,
            id: own.id,
            logprob: Some(own.logprob),
            top: all.clone(),
        })
    });
    tokens.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chats_texts_and_their_logprobs() {
        let chat = json!({
            "choices": [{
                "index": 0, "finish_reason": "stop",
                "message": { "role": "assistant", "content": "Hi" },
                "logprobs": { "content": [{
                    "id": 17, "token": "Hi", "bytes": [72, 105], "logprob": -0.5,
                    "top_logprobs": [{ "id": 17, "token": "Hi", "logprob": -0.5 }, { "token": "token_id:4", "logprob": -2.0 }],
                }] },
            }],
            "usage": { "prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10 },
        });
        let answer = Answer::read(&chat).unwrap();
        assert_eq!(
            answer.usage,
            Usage {
                input: 9,
                output: 1
            }
        );
        let choice = &answer.choices[0];
        assert_eq!(
            (choice.text.as_str(), choice.finish_reason.as_deref()),
            ("Hi", Some("stop"))
        );
        let token = &choice.logprobs[0];
        assert_eq!((token.id, token.logprob), (Some(17), Some(-0.5)));
        assert_eq!((token.top[1].id, &token.bytes), (Some(4), &None));

        let mixed =
            json!({ "choices": [{ "index": 1, "text": "b" }, { "index": 0, "text": "a" }] });
        let texts = Answer::read(&mixed).unwrap().choices;
        assert_eq!((texts[0].text.as_str(), texts[1].text.as_str()), ("a", "b"));

        let text = json!({ "choices": [{ "text": "ab", "logprobs": {
            "tokens": ["a", "b"], "token_logprobs": [null, -1.5], "top_logprobs": [null, { "b": -1.5, "c": -2.5 }],
        } }] });
        let choice = &Answer::read(&text).unwrap().choices[0];
        let logprobs: Vec<Option<f64>> = choice.logprobs.iter().map(|t| t.logprob).collect();
        assert_eq!(logprobs, [None, Some(-1.5)]);
        assert_eq!(choice.logprobs[1].top.len(), 2);
    }

    #[test]
    fn bytes_are_kept_where_a_text_cannot_say_them() {
        let content = json!({ "content": [{
            "token": "\u{fffd}", "bytes": [236, 149], "logprob": -0.5,
            "top_logprobs": [{ "token": "\u{fffd}", "bytes": [236, 149], "logprob": -0.5 }, { "token": "a", "bytes": [97], "logprob": -2.0 }],
        }, { "id": 2, "token": "", "bytes": [], "logprob": -0.1 }] });
        let tokens = read_logprobs(&content);
        assert_eq!(tokens[0].bytes.as_deref(), Some(&[236, 149][..]));
        assert_eq!(tokens[0].top[0].bytes, tokens[0].bytes);
        assert_eq!(tokens[0].top[1].bytes, None);
        assert_eq!((&tokens[1].bytes, tokens[1].id), (&None, Some(2)));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for (body, says) in [
            (
                json!({ "error": { "message": "no such model" } }),
                "no such model",
            ),
            (json!({ "error": "overloaded" }), "overloaded"),
            (json!({ "detail": 1 }), "without `choices`"),
            (json!({ "choices": [] }), "empty"),
        ] {
            let error = Answer::read(&body).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn prompt_logprobs_are_those_of_the_given_tokens() {
        let entries = [
            Value::Null,
            json!({ "9": { "logprob": -3.0, "rank": 4, "decoded_token": "x" }, "5": { "logprob": -0.1, "rank": 1, "decoded_token": "y" } }),
        ];
        let by_order = read_prompt_logprobs(&entries, None).unwrap();
        assert_eq!((by_order[1].id, by_order[1].logprob), (Some(9), Some(-3.0)));
        let by_id = read_prompt_logprobs(&entries, Some(&[1, 5])).unwrap();
        assert_eq!((by_id[0].id, by_id[1].logprob), (Some(1), Some(-0.1)));
        let other = read_prompt_logprobs(&entries, Some(&[1, 6])).unwrap();
        assert_eq!(other[1].id, Some(9));
    }
}

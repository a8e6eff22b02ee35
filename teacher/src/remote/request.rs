//! What is asked of a server, as the OpenAI API has it, and the digest that an answer is kept under.

use datasets::sample::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One request. Serialised, with the model's name, it is all that determines the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    pub input: Input,
    pub sampling: Sampling,
    /// How many answers are drawn.
    pub candidates: u32,
    /// Log-probabilities of the tokens, and so many of the best at each place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// The JSON schema that an answer has to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The assistant's turn is next.
    Chat(Vec<Message>),
    /// To be continued as it is.
    Text(String),
    /// To be scored; nothing is written.
    Given(Given),
}

/// A text to be scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Given {
    Text(String),
    Ids(Vec<u32>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 takes the likeliest token each time.
    #[schemars(range(min = 0, max = 100))]
    pub temperature: f64,
    /// The smallest set of most probable tokens whose probabilities reach this sum; 1 keeps all.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: f64,
    /// Most tokens of an answer.
    #[schemars(range(min = 1))]
    pub max_tokens: u32,
    /// The recipe's seed when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Any of these ends the text and is no part of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: 512,
            seed: None,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// What reads well and makes no sense: the key that it stands under, and what is wrong.
    pub fn check(&self) -> Vec<(&'static str, &'static str)> {
        let good = |value: f64| value.is_finite() && value >= 0.0;
        [
            (
                good(self.temperature),
                "temperature",
                "`temperature` is 0 or more",
            ),
            (
                self.top_p > 0.0 && self.top_p <= 1.0,
                "top_p",
                "`top_p` is above 0 and at most 1",
            ),
            (
                self.max_tokens >= 1,
                "max_tokens",
                "`max_tokens` must be at least 1",
            ),
            (
                !self.stop.iter().any(String::is_empty),
                "stop",
                "a stop string is empty: it would end every text before it begins",
            ),
        ]
        .into_iter()
        .filter(|(holds, _, _)| !holds)
        .map(|(_, key, says)| (key, says))
        .collect()
    }
}

/// How a server is asked to score a given text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// `prompt_logprobs`: vLLM and its kin.
    PromptLogprobs,
    /// `echo` with `logprobs`: the OpenAI API's older way.
    Echo,
}

/// The parts of a body that depend on the server and not on what is asked.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    pub stream: bool,
    /// Newer models of OpenAI's take `max_completion_tokens` in place of `max_tokens`.
    pub completion_tokens: bool,
    pub scoring: Scoring,
}

impl Request {
    /// Where below the endpoint it is sent.
    pub fn path(&self) -> &'static str {
        match self.input {
            Input::Chat(_) => "chat/completions",
            Input::Text(_) | Input::Given(_) => "completions",
        }
    }

    /// The body of the request.
    pub fn body(&self, model: &str, dialect: Dialect) -> Value {
        let mut body = json!({ "model": model });
        match &self.input {
            Input::Chat(messages) => body["messages"] = json!(messages),
            Input::Text(text) => body["prompt"] = json!(text),
            Input::Given(given) => {
                body["prompt"] = json!(given);
                return self.scoring_body(body, dialect.scoring);
            }
        }
        let sampling = &self.sampling;
        body["temperature"] = json!(sampling.temperature);
        body["top_p"] = json!(sampling.top_p);
        let limit = match dialect.completion_tokens {
            true => "max_completion_tokens",
            false => "max_tokens",
        };
        body[limit] = json!(sampling.max_tokens);
        if let Some(seed) = sampling.seed {
            body["seed"] = json!(seed);
        }
        if !sampling.stop.is_empty() {
            body["stop"] = json!(sampling.stop);
        }
        if self.candidates > 1 {
            body["n"] = json!(self.candidates);
        }
        match (&self.input, self.top_logprobs) {
            (Input::Chat(_), Some(top)) => {
                body["logprobs"] = json!(true);
                body["top_logprobs"] = json!(top);
            }
            (_, Some(top)) => body["logprobs"] = json!(top),
            (_, None) => {}
        }
        if let Some(schema) = &self.schema {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": "answer", "schema": schema, "strict": true },
            });
        }
        if dialect.stream {
            body["stream"] = json!(true);
            body["stream_options"] = json!({ "include_usage": true });
        }
        body
    }

    fn scoring_body(&self, mut body: Value, scoring: Scoring) -> Value {
        let top = self.top_logprobs.unwrap_or(0);
        body["temperature"] = json!(0.0);
        match scoring {
            Scoring::PromptLogprobs => {
                body["max_tokens"] = json!(1);
                body["prompt_logprobs"] = json!(top);
            }
            Scoring::Echo => {
                body["max_tokens"] = json!(0);
                body["echo"] = json!(true);
                body["logprobs"] = json!(top);
                if top > 0 && matches!(self.input, Input::Given(Given::Ids(_))) {
                    // As text two tokens may look alike.
                    body["return_tokens_as_token_ids"] = json!(true);
                }
            }
        }
        body
    }

    /// SHA-256 (hexadecimal) of all that determines the answer: the model's name and the request, neither the server's
    /// address nor the key.
    pub fn digest(&self, model: &str) -> String {
        let described = json!({ "format": 1, "model": model, "request": self });
        hex_digest(described.to_string().as_bytes())
    }

    /// Tokens that are read, guessed: one for three bytes of text or schema. Of English that is too many; of digits or
    /// rare scripts it may be too few.
    pub fn estimated_input(&self) -> u64 {
        let schema = self.schema.as_ref();
        let schema = schema.map_or(0, |schema| schema.to_string().len());
        let bytes: usize = match &self.input {
            Input::Chat(messages) => {
                let sizes = messages.iter().map(|message| message.content.len() + 24);
                sizes.sum()
            }
            Input::Text(text) | Input::Given(Given::Text(text)) => text.len(),
            Input::Given(Given::Ids(ids)) => return ids.len() as u64,
        };
        (bytes + schema).div_ceil(3) as u64
    }

    /// The most tokens that are written.
    pub fn most_output(&self) -> u64 {
        match self.input {
            Input::Given(_) => 1,
            _ => u64::from(self.sampling.max_tokens) * u64::from(self.candidates),
        }
    }
}

/// SHA-256 in hexadecimal.
pub fn hex_digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(stream: bool) -> Dialect {
        Dialect {
            stream,
            completion_tokens: false,
            scoring: Scoring::Echo,
        }
    }

    fn request(input: Input) -> Request {
        Request {
            input,
            sampling: Sampling {
                temperature: 0.7,
                top_p: 0.95,
                max_tokens: 64,
                seed: Some(7),
                stop: vec!["END".into()],
            },
            candidates: 1,
            top_logprobs: None,
            schema: None,
        }
    }

    /// Bodies as the OpenAI API reference documents them.
    #[test]
    fn bodies_are_those_of_the_openai_api() {
        let messages = vec![
            Message::new("system", "Be brief."),
            Message::new("user", "Why is the sky blue?"),
        ];
        let mut chat = request(Input::Chat(messages));
        chat.candidates = 2;
        chat.top_logprobs = Some(5);
        chat.schema = Some(json!({ "type": "object" }));
        let expected = r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sky blue?"}],"temperature":0.7,"top_p":0.95,"max_tokens":64,"seed":7,"stop":["END"],"n":2,"logprobs":true,"top_logprobs":5,"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"},"strict":true}},"stream":true,"stream_options":{"include_usage":true}}"#;
        assert_eq!(chat.body("m", dialect(true)).to_string(), expected);
        assert_eq!(chat.path(), "chat/completions");
        assert_eq!(
            chat.estimated_input(),
            (9 + 20 + 2 * 24 + 17_u64).div_ceil(3)
        );

        let mut text = request(Input::Text("Once".into()));
        text.top_logprobs = Some(0);
        text.sampling.stop.clear();
        let expected = r#"{"model":"m","prompt":"Once","temperature":0.7,"top_p":0.95,"max_tokens":64,"seed":7,"logprobs":0}"#;
        assert_eq!(text.body("m", dialect(false)).to_string(), expected);
        let newer = Dialect {
            completion_tokens: true,
            ..dialect(false)
        };
        assert!(
            text.body("m", newer)
                .to_string()
                .contains(r#""max_completion_tokens":64"#)
        );
        assert_eq!(text.path(), "completions");

        let given = request(Input::Given(Given::Ids(vec![1, 2, 3])));
        let expected = r#"{"model":"m","prompt":[1,2,3],"temperature":0.0,"max_tokens":0,"echo":true,"logprobs":0}"#;
        assert_eq!(given.body("m", dialect(true)).to_string(), expected);
        let best = Request {
            top_logprobs: Some(5),
            ..given.clone()
        };
        let expected = r#"{"model":"m","prompt":[1,2,3],"temperature":0.0,"max_tokens":0,"echo":true,"logprobs":5,"return_tokens_as_token_ids":true}"#;
        assert_eq!(best.body("m", dialect(false)).to_string(), expected);
        let vllm = Dialect {
            scoring: Scoring::PromptLogprobs,
            ..dialect(false)
        };
        let expected = r#"{"model":"m","prompt":[1,2,3],"temperature":0.0,"max_tokens":1,"prompt_logprobs":0}"#;
        assert_eq!(given.body("m", vllm).to_string(), expected);
    }

    #[test]
    fn the_digest_follows_what_determines_the_answer() {
        let base = request(Input::Text("Once".into()));
        let digest = base.digest("m");
        assert_eq!(digest, base.clone().digest("m"));
        let mut others = vec![base.digest("other")];
        let mut change = |edit: &dyn Fn(&mut Request)| {
            let mut changed = base.clone();
            edit(&mut changed);
            others.push(changed.digest("m"));
        };
        change(&|request| request.input = Input::Chat(vec![Message::new("user", "Once")]));
        change(&|request| request.input = Input::Given(Given::Text("Once".into())));
        change(&|request| request.sampling.seed = Some(8));
        change(&|request| request.sampling.seed = None);
        change(&|request| request.sampling.temperature = 0.8);
        change(&|request| request.candidates = 2);
        change(&|request| request.top_logprobs = Some(1));
        change(&|request| request.schema = Some(json!({})));
        others.push(digest);
        let all = others.len();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), all);
    }
}

//! A server of the OpenAI API on the loopback, as well or as badly behaved as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone)]
pub struct Hit {
    /// From 0, in the order of arrival.
    pub number: usize,
    pub path: String,
    pub authorization: String,
    pub body: Value,
    pub at: Instant,
}

pub enum Reply {
    /// Status, further headers, body.
    Text(u16, &'static str, String),
    /// An event stream, ended as it should be.
    Stream(String),
    /// The first half of a body, and the end of the connection.
    Cut(String),
    /// Nothing, for so long.
    Hang(Duration),
}

type Behaviour = dyn Fn(&Hit) -> Reply + Send + Sync;

pub struct Server {
    address: String,
    hits: Arc<Mutex<Vec<Hit>>>,
    /// Prompts that were answered whole.
    answered: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(behaviour: impl Fn(&Hit) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            hits: Arc::default(),
            answered: Arc::default(),
        };
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let (hits, answered) = (server.hits.clone(), server.answered.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behaviour, hits, answered) =
                    (behaviour.clone(), hits.clone(), answered.clone());
                // A client that goes away early is its own affair.
                std::thread::spawn(move || serve(stream, &*behaviour, &hits, &answered));
            }
        });
        server
    }

    /// One that answers every chat.
    pub fn good() -> Self {
        Self::start(|hit| Reply::json(chat(hit)))
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn hits(&self) -> Vec<Hit> {
        self.hits.lock().unwrap().clone()
    }

    pub fn answered(&self) -> Vec<String> {
        self.answered.lock().unwrap().clone()
    }
}

impl Reply {
    pub fn json(body: Value) -> Self {
        Self::Text(200, "", body.to_string())
    }

    pub fn refused(status: u16, message: &str) -> Self {
        Self::Text(
            status,
            "",
            json!({ "error": { "message": message } }).to_string(),
        )
    }
}

/// What the user said last.
pub fn question(hit: &Hit) -> String {
    let messages = hit.body["messages"].as_array().cloned().unwrap_or_default();
    let last = messages.last().map(|message| message["content"].clone());
    last.and_then(|text| text.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// An answer whose text is this in place of the usual one.
pub fn saying(hit: &Hit, text: &str) -> Reply {
    let mut answer = chat(hit);
    answer["choices"][0]["message"]["content"] = text.into();
    Reply::json(answer)
}

/// An answer as the OpenAI API has it; its text follows from the question and the seed.
pub fn chat(hit: &Hit) -> Value {
    let candidates = hit.body["n"].as_u64().unwrap_or(1);
    let choice = |index| {
        let seed = hit.body["seed"].as_u64().unwrap_or(0) + index;
        json!({
            "index": index, "finish_reason": "stop",
            "message": { "role": "assistant", "content": format!("answer {seed} to {}", question(hit)) },
        })
    };
    json!({
        "object": "chat.completion",
        "choices": (0..candidates).map(choice).collect::<Vec<_>>(),
        "usage": { "prompt_tokens": 10, "completion_tokens": 10 * candidates, "total_tokens": 10 + 10 * candidates },
    })
}

/// The same answer in pieces.
pub fn streamed(hit: &Hit) -> String {
    let answer = chat(hit);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let mut events: Vec<Value> = (text.split_inclusive(' '))
        .map(|word| json!({ "choices": [{ "index": 0, "delta": { "content": word } }] }))
        .collect();
    events.push(json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }));
    events.push(json!({ "choices": [], "usage": answer["usage"] }));
    let events: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    events + "data: [DONE]\n\n"
}

/// The requests of one connection.
fn serve(
    stream: TcpStream,
    behaviour: &Behaviour,
    hits: &Mutex<Vec<Hit>>,
    answered: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut authorization) = (0, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let hit = {
            let mut hits = hits.lock().unwrap();
            let hit = Hit {
                number: hits.len(),
                path,
                authorization,
                body: serde_json::from_slice(&body).unwrap(),
                at: Instant::now(),
            };
            hits.push(hit.clone());
            hit
        };
        match behaviour(&hit) {
            Reply::Text(status, headers, body) => {
                // Before it goes out: who reads it may count at once.
                if status == 200 && serde_json::from_str::<Value>(&body).is_ok() {
                    answered.lock().unwrap().push(question(&hit));
                }
                let length = body.len();
                write!(
                    out,
                    "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                )?;
            }
            Reply::Stream(events) => {
                answered.lock().unwrap().push(question(&hit));
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{events}"
                )?;
                return Ok(());
            }
            Reply::Cut(body) => {
                let length = body.len();
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{}",
                    &body[..length / 2]
                )?;
                return Ok(());
            }
            Reply::Hang(time) => {
                std::thread::sleep(time);
                return Ok(());
            }
        }
    }
}

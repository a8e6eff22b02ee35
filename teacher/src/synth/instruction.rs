//! Instructions that a teacher writes: conversations that end with the user's turn, for another stage to answer.

use datasets::sample::{Message, Sample};
use datasets::words::{normalise, words};
use serde::Serialize;

use super::prompt::Variables;
use crate::remote::request::{Input, Request, Sampling, hex_digest};

/// A line of data. `L` tells where the instruction comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Instruction<L> {
    pub messages: [Message; 1],
    pub lineage: L,
}

impl<L> Instruction<L> {
    pub fn new(text: &str, lineage: L) -> Self {
        Self {
            messages: [Message::new("user", text)],
            lineage,
        }
    }
}

/// An instruction of the data that a stage starts from.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    pub text: String,
    /// SHA-256 of what its record says.
    pub digest: String,
}

impl Seed {
    pub fn of(sample: &Sample) -> Self {
        Self {
            text: Variables::of(sample, None).prompt,
            digest: hex_digest(&serde_json::to_vec(sample).unwrap_or_default()),
        }
    }
}

/// A question of one turn, drawn with the `number`-th seed.
pub fn request(
    question: String,
    system: Option<&str>,
    sampling: &Sampling,
    number: u64,
) -> Request {
    let mut messages = vec![Message::new("user", question)];
    if let Some(system) = system {
        messages.insert(0, Message::new("system", system));
    }
    let mut sampling = sampling.clone();
    sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(number));
    Request {
        input: Input::Chat(messages),
        sampling,
        candidates: 1,
        top_logprobs: None,
        schema: None,
    }
}

/// The first of `phrases` whose words occur side by side in `text`.
pub fn phrase_in<'a>(text: &str, phrases: &'a [String]) -> Option<&'a str> {
    let text = normalise(text);
    let text: Vec<&str> = words(&text).collect();
    let occurs = |phrase: &&String| {
        let phrase = normalise(phrase);
        let phrase: Vec<&str> = words(&phrase).collect();
        !phrase.is_empty() && text.windows(phrase.len()).any(|window| window == phrase)
    };
    phrases.iter().find(occurs).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_whole_words_in_any_case() {
        let phrases = ["file".to_owned(), "go to".to_owned()];
        assert_eq!(phrase_in("Open the File.", &phrases), Some("file"));
        assert_eq!(phrase_in("Then GO  to bed", &phrases), Some("go to"));
        assert_eq!(phrase_in("A profile; go, and come to me", &phrases), None);
    }
}

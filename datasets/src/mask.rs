//! Samples become token ids, and a mask that says which tokens are learned.
//!
//! The mask holds by construction: a conversation is rendered up to each assistant turn, and what the turn appends to
//! the generation prompt is learned. The pieces between these borders are tokenised one by one, because generation
//! starts from the tokens of the prompt alone: a token across the border would never be seen there, and no token
//! could be half learned.

use crate::chat_template::ChatTemplate;
use crate::error::DataError;
use crate::sample::{Message, Sample};
use crate::tokenizer::Tokenizer;

/// Token ids, and for each whether it is a *target*: `supervised[i]` says that predicting `ids[i]` from
/// `ids[..i]` counts. Index 0 never is one: nothing precedes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizedSample {
    pub ids: Vec<u32>,
    pub supervised: Vec<bool>,
    /// Plain text may be split where it is longer than a sequence; other samples are truncated.
    pub splittable: bool,
}

impl TokenizedSample {
    /// The number of targets.
    pub fn supervised_count(&self) -> usize {
        self.supervised.iter().filter(|s| **s).count()
    }
}

/// Turns samples into tokens.
#[derive(Debug)]
pub struct SampleEncoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
}

/// A piece of a rendered conversation.
struct Segment {
    text: String,
    /// The assistant turn (1-based) that it is, or none for what is only read.
    turn: Option<usize>,
}

impl<'a> SampleEncoder<'a> {
    /// With the tokenizer's own chat template, if it has one.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self, DataError> {
        Ok(Self {
            tokenizer,
            template: ChatTemplate::of(tokenizer)?,
        })
    }

    /// With another template, or with none: prompts are then followed by their completions as they are.
    pub fn with_template(tokenizer: &'a Tokenizer, template: Option<ChatTemplate>) -> Self {
        Self {
            tokenizer,
            template,
        }
    }

    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Digest of the tokenizer and the template together.
    pub fn digest(&self) -> String {
        let template = self
            .template
            .as_ref()
            .map(ChatTemplate::digest)
            .unwrap_or_default();
        format!("{}:{template}", self.tokenizer.digest())
    }

    /// The tokens and the mask of one sample.
    pub fn encode(&self, sample: &Sample) -> Result<TokenizedSample, DataError> {
        let mut encoded = match (sample, &self.template) {
            (Sample::Text(text), _) => self.text(text)?,
            (Sample::Completion { prompt, completion }, None) => {
                self.completion(prompt, completion)?
            }
            (Sample::Completion { prompt, completion }, Some(template)) => {
                let turns = [
                    Message::new("user", prompt),
                    Message::new("assistant", completion),
                ];
                self.conversation(template, &turns, 0)?
            }
            (Sample::Conversation(messages), Some(template)) => {
                self.conversation(template, messages, 0)?
            }
            (Sample::Conversation(_), None) => return Err(DataError::NoTemplate),
        };
        if let Some(first) = encoded.supervised.first_mut() {
            *first = false;
        }
        Ok(encoded)
    }

    /// The tokens of a conversation of which only the assistant turns in `reply` are learned. Without a template one
    /// question is followed by its answer.
    pub fn encode_reply(
        &self,
        prompt: &[Message],
        reply: &[Message],
    ) -> Result<TokenizedSample, DataError> {
        let mut encoded = match (&self.template, prompt, reply) {
            (Some(template), _, _) => {
                self.conversation(template, &[prompt, reply].concat(), prompt.len())?
            }
            (None, [question], [answer]) => self.completion(&question.content, &answer.content)?,
            (None, _, _) => return Err(DataError::NoTemplate),
        };
        if let Some(first) = encoded.supervised.first_mut() {
            *first = false;
        }
        Ok(encoded)
    }

    fn text(&self, text: &str) -> Result<TokenizedSample, DataError> {
        let mut ids = self.tokenizer.encode(text, true)?;
        self.push_eos(&mut ids);
        Ok(TokenizedSample {
            supervised: vec![true; ids.len()],
            ids,
            splittable: true,
        })
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<TokenizedSample, DataError> {
        let mut ids = self.tokenizer.encode(prompt, true)?;
        // A tokenizer that appends its end-of-sequence token would end the sample before the completion.
        let appended = ids.len() > self.tokenizer.encode(prompt, false)?.len();
        if appended
            && ids.len() > 1
            && ids
                .last()
                .is_some_and(|last| self.tokenizer.eos_ids().contains(last))
        {
            ids.pop();
        }
        let border = ids.len();
        ids.extend(
            self.tokenizer
                .encode_after(ids.last().copied(), completion)?,
        );
        self.push_eos(&mut ids);
        let supervised = (0..ids.len()).map(|i| i >= border).collect();
        Ok(TokenizedSample {
            ids,
            supervised,
            splittable: false,
        })
    }

    fn push_eos(&self, ids: &mut Vec<u32>) {
        if let Some(eos) = self.tokenizer.eos_ids().first()
            && ids.last() != Some(eos)
        {
            ids.push(*eos);
        }
    }

    /// The first `read` turns are never learned.
    fn conversation(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        read: usize,
    ) -> Result<TokenizedSample, DataError> {
        let mut encoded = TokenizedSample::default();
        let mut finished: Option<usize> = None;
        for segment in segments(template, messages)? {
            let ids = self
                .tokenizer
                .encode_after(encoded.ids.last().copied(), &segment.text)?;
            let is_eos = |id: &u32| self.tokenizer.eos_ids().contains(id);
            // What follows the last end-of-sequence token of a turn (ChatML: a line feed) is never generated.
            let learned = match segment.turn {
                None => 0,
                Some(turn) if turn <= read => 0,
                Some(_) => ids
                    .iter()
                    .rposition(is_eos)
                    .map_or(ids.len(), |last| last + 1),
            };
            if let (Some(turn), Some(first)) = (finished, ids.first())
                && is_eos(first)
            {
                return Err(DataError::MaskedEndOfSequence {
                    turn,
                    token: self.tokenizer.token(*first).unwrap_or_default(),
                });
            }
            // A turn that closed itself may be followed by anything.
            finished = segment.turn.filter(|_| !ids.iter().any(is_eos));
            encoded
                .supervised
                .extend((0..ids.len()).map(|i| i < learned));
            encoded.ids.extend(ids);
        }
        Ok(encoded)
    }
}

/// Cuts the rendered conversation before and after each assistant turn. The segments joined are the rendered text.
fn segments(template: &ChatTemplate, messages: &[Message]) -> Result<Vec<Segment>, DataError> {
    let mut segments = Vec::new();
    let mut done = String::new();
    let changed =
        |turn: usize, role: &str, shown: &str, expected: &str| DataError::TemplatePrefix {
            turn,
            role: role.to_string(),
            found: difference(shown, expected),
        };
    for (index, message) in messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        let turn = index + 1;
        let prompt = template.render(&messages[..index], true)?;
        let Some(read) = prompt.strip_prefix(done.as_str()) else {
            return Err(changed(turn, &message.role, &prompt, &done));
        };
        let whole = template.render(&messages[..=index], false)?;
        let Some(learned) = whole.strip_prefix(prompt.as_str()) else {
            return Err(changed(turn, &message.role, &whole, &prompt));
        };
        segments.push(Segment {
            text: read.to_string(),
            turn: None,
        });
        segments.push(Segment {
            text: learned.to_string(),
            turn: Some(turn),
        });
        done = whole;
    }
    let whole = template.render(messages, false)?;
    let Some(rest) = whole.strip_prefix(done.as_str()) else {
        let role = messages.last().map(|m| m.role.as_str()).unwrap_or_default();
        return Err(changed(messages.len(), role, &whole, &done));
    };
    segments.push(Segment {
        text: rest.to_string(),
        turn: None,
    });
    segments.retain(|segment| !segment.text.is_empty());
    Ok(segments)
}

/// Where a rendered text departs from the prefix that it should have.
fn difference(shown: &str, expected: &str) -> String {
    let same: usize = shown
        .chars()
        .zip(expected.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let excerpt = |text: &str| text[same..].chars().take(40).collect::<String>();
    format!(
        "adding it changes the text before it, at byte {same}: from {:?} to {:?}",
        excerpt(expected),
        excerpt(shown)
    )
}

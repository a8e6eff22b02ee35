//! What a generation cost: tokens, time, memory.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use model::generate::speculative::Acceptance;
use serde::Serialize;
use teacher::{Completion, LocalTeacher, Prompt, TeacherError};

use crate::progress::{peak_resident_bytes, resident_bytes};

/// Tells prefill from decoding by the calls that a generation makes for each new token: what passes before a
/// prompt's first token is prefill, that of prompts which had to wait for others included.
pub struct Clock {
    last: Instant,
    begun: Vec<bool>,
    prefill: Duration,
    decode: Duration,
}

impl Clock {
    pub fn start(prompts: usize) -> Self {
        Self {
            last: Instant::now(),
            begun: vec![false; prompts],
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        }
    }

    pub fn tick(&mut self, prompt: usize) {
        let passed = self.last.elapsed();
        self.last += passed;
        match std::mem::replace(&mut self.begun[prompt], true) {
            false => self.prefill += passed,
            true => self.decode += passed,
        }
    }
}

/// Of all prompts together. `None` where the system does not tell.
#[derive(Debug, Serialize)]
pub struct Stats {
    prompts: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    /// From an open file to a model that is ready.
    load_seconds: f64,
    /// To the first new token of each prompt.
    prefill_seconds: f64,
    /// To all further ones.
    decode_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    /// Held when the model was ready.
    loaded_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drafts: Option<Drafts>,
}

/// What became of what a smaller model drafted.
#[derive(Debug, Serialize)]
pub struct Drafts {
    #[serde(flatten)]
    acceptance: Acceptance,
    /// Accepted tokens a round, the one that the model adds not counted.
    acceptance_length: f64,
    acceptance_rate: f64,
}

impl From<Acceptance> for Drafts {
    fn from(acceptance: Acceptance) -> Self {
        Self {
            acceptance_length: acceptance.length(),
            acceptance_rate: acceptance.rate(),
            acceptance,
        }
    }
}

impl fmt::Display for Drafts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} drafted tokens accepted a round, {:.1} % of {}, in {} rounds",
            self.acceptance_length,
            100.0 * self.acceptance_rate,
            self.acceptance.drafted,
            self.acceptance.rounds
        )
    }
}

impl Stats {
    /// What is known once the model is there.
    pub fn loaded(
        model: &LocalTeacher,
        prompts: &[Prompt],
        load_seconds: f64,
    ) -> Result<Self, TeacherError> {
        let loaded_bytes = resident_bytes();
        let mut prompt_tokens = 0;
        for prompt in prompts {
            prompt_tokens += model.encode(prompt)?.len();
        }
        Ok(Self {
            prompts: prompts.len(),
            prompt_tokens,
            new_tokens: 0,
            load_seconds,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
            prefill_tokens_per_second: 0.0,
            decode_tokens_per_second: 0.0,
            loaded_bytes,
            peak_bytes: None,
            drafts: None,
        })
    }

    /// With what the generation took.
    pub fn generated(
        self,
        clock: &Clock,
        completions: &[Completion],
        acceptance: Option<Acceptance>,
    ) -> Self {
        let new_tokens: usize = completions.iter().map(|one| one.ids.len()).sum();
        let begun = completions.iter().filter(|one| !one.ids.is_empty()).count();
        let (prefill, decode) = (clock.prefill.as_secs_f64(), clock.decode.as_secs_f64());
        let rate = |tokens: usize, seconds: f64| match seconds > 0.0 {
            true => tokens as f64 / seconds,
            false => 0.0,
        };
        Self {
            new_tokens,
            prefill_seconds: prefill,
            decode_seconds: decode,
            prefill_tokens_per_second: rate(self.prompt_tokens, prefill),
            // The first token of each prompt is the prefill's.
            decode_tokens_per_second: rate(new_tokens - begun, decode),
            peak_bytes: peak_resident_bytes(),
            drafts: acceptance.map(Drafts::from),
            ..self
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |bytes: Option<u64>, when: &str| {
            bytes.map_or_else(String::new, |b| format!(", {} {when}", HumanBytes(b)))
        };
        let loaded = held(self.loaded_bytes, "held");
        let peak = held(self.peak_bytes, "at the most");
        writeln!(f, "load     {:.2} s{loaded}", self.load_seconds)?;
        writeln!(
            f,
            "prefill  {} tokens in {:.2} s, {:.1} tokens/s",
            self.prompt_tokens, self.prefill_seconds, self.prefill_tokens_per_second
        )?;
        writeln!(
            f,
            "decode   {} tokens, {:.2} s after the first of each prompt, {:.1} tokens/s{peak}",
            self.new_tokens, self.decode_seconds, self.decode_tokens_per_second
        )?;
        match &self.drafts {
            Some(drafts) => writeln!(f, "drafts   {drafts}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_each_prompt_is_prefill() {
        let mut clock = Clock::start(2);
        let wait = || std::thread::sleep(Duration::from_millis(5));
        wait();
        clock.tick(0);
        let first = clock.prefill;
        assert!(first >= Duration::from_millis(5) && clock.decode.is_zero());
        clock.tick(1);
        let prefill = clock.prefill;
        wait();
        clock.tick(1);
        assert_eq!(clock.prefill, prefill);
        assert!(clock.decode >= Duration::from_millis(5));
    }
}

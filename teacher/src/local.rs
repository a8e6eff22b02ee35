//! A language model on this machine: text in, text out, and signals for a trainer.

use std::path::Path;

use datasets::chat_template::ChatTemplate;
use datasets::error::DataError;
use datasets::random::Random;
use datasets::tokenizer::Tokenizer;
use model::batch::TokenBatch;
use model::build::Placement;
use model::decoder::Decoder;
use model::generate::engine::{GenerationConfig, ROWS_AT_A_TIME, generate};
use model::load::load_frozen_decoder;
use model::weights::checkpoint::Checkpoint;

use crate::error::TeacherError;
use crate::generation::{Completion, FinishReason, GenerationRequest, Prompt};
use crate::signal::Signal;
use crate::teacher::{Teacher, Vocabulary};
use crate::text_stream::TextStream;
use crate::tokenizer::{check_fit, load_tokenizer};

/// Joins a decoder with its tokenizer and chat template.
#[derive(Debug)]
pub struct LocalTeacher {
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

/// How prompts are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    /// Texts that are under way at a time.
    pub rows: usize,
    /// First tokens that all prompts share, fewer than each has; they are read once.
    pub shared: usize,
}

impl Default for Together {
    fn default() -> Self {
        Self {
            rows: ROWS_AT_A_TIME,
            shared: 0,
        }
    }
}

/// Called for each new token with the number of its prompt and the text that it adds, which may be empty.
pub type OnText<'a> = dyn FnMut(usize, &str) + 'a;

impl LocalTeacher {
    /// Reads a model with its tokenizer: a GGUF file or a Hugging Face directory.
    ///
    /// # Errors
    /// What is wrong with the model's files, as [`Checkpoint::open`] and [`load_tokenizer`] say it.
    pub fn open(path: &Path, placement: &Placement) -> Result<Self, TeacherError> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer = load_tokenizer(&checkpoint)?;
        Self::new(load_frozen_decoder(&checkpoint, placement)?, tokenizer)
    }

    /// A model that is already there, with its own tokenizer or with another's.
    ///
    /// # Errors
    /// [`TeacherError::TokenizerMismatch`]; a chat template that cannot be compiled.
    pub fn new(decoder: Decoder, tokenizer: Tokenizer) -> Result<Self, TeacherError> {
        check_fit(
            Path::new("the model"),
            &tokenizer,
            decoder.config.vocab_size,
        )?;
        Ok(Self {
            template: ChatTemplate::of(&tokenizer)?,
            decoder,
            tokenizer,
        })
    }

    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// None for a model that has learned no conversations.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// As [`eos_token_ids`].
    pub fn eos_token_ids(&self) -> Vec<u32> {
        eos_token_ids(&self.decoder, &self.tokenizer)
    }

    /// The tokens that the model continues.
    ///
    /// # Errors
    /// A conversation needs a chat template that takes its roles.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, TeacherError> {
        match prompt {
            Prompt::Text(text) => {
                let mut ids = self.tokenizer.encode(text, true)?;
                // A tokenizer that closes every text would leave nothing to say.
                let without = self.tokenizer.encode(text, false)?;
                while ids.len() > without.len()
                    && (ids.last()).is_some_and(|last| self.tokenizer.eos_ids().contains(last))
                    && ids.len() > 1
                {
                    ids.pop();
                }
                Ok(ids)
            }
            Prompt::Conversation(messages) => {
                let template = self.template.as_ref().ok_or(DataError::NoTemplate)?;
                let text = template.render(messages, true)?;
                Ok(self.tokenizer.encode_after(None, &text)?)
            }
        }
    }

    /// Continues each prompt. `on_text` gets whole characters, and nothing that a stop string may still take away; joined
    /// they are the completion's text. What was held back to the end of a text comes in one more call.
    ///
    /// # Errors
    /// A request that makes no sense; a prompt that is empty, does not fit into the model's context or has no template.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        request: &GenerationRequest,
        on_text: &mut OnText<'_>,
    ) -> Result<Vec<Completion>, TeacherError> {
        request.validate()?;
        let encoded: Vec<Vec<u32>> = (prompts.iter().enumerate())
            .map(|(i, prompt)| self.prompt_ids(Some(i + 1), prompt))
            .collect::<Result<_, _>>()?;
        let uniform = |prompt: usize, token: usize| {
            let stage = format!("generate {prompt}");
            Random::new(request.seed, &stage, token as u64, "token").f64()
        };
        let together = Together::default();
        Ok(self.continue_ids(&encoded, request, together, &uniform, on_text))
    }

    /// Continues each prompt with a seed of its own, in place of the request's: what is written follows from prompt and
    /// seed, whatever else is asked with them. The prompts are those of [`Self::prompt_ids`].
    ///
    /// # Errors
    /// A request that makes no sense.
    pub fn generate_seeded(
        &self,
        prompts: &[Vec<u32>],
        seeds: &[u64],
        request: &GenerationRequest,
    ) -> Result<Vec<Completion>, TeacherError> {
        self.generate_together(prompts, seeds, request, Together::default())
    }

    /// The same for prompts that share a beginning, or are to be written in other batches than usual.
    ///
    /// # Errors
    /// A request that makes no sense.
    pub fn generate_together(
        &self,
        prompts: &[Vec<u32>],
        seeds: &[u64],
        request: &GenerationRequest,
        together: Together,
    ) -> Result<Vec<Completion>, TeacherError> {
        request.validate()?;
        let uniform = |prompt: usize, token: usize| {
            Random::new(seeds[prompt], "generate 0", token as u64, "token").f64()
        };
        Ok(self.continue_ids(prompts, request, together, &uniform, &mut |_, _| ()))
    }

    /// The tokens of a prompt that can be continued; of several its number, from 1, is told where it cannot.
    ///
    /// # Errors
    /// A prompt that is empty, does not fit into the model's context or has no template.
    pub fn prompt_ids(
        &self,
        number: Option<usize>,
        prompt: &Prompt,
    ) -> Result<Vec<u32>, TeacherError> {
        let ids = self.encode(prompt)?;
        let tokens = ids.len();
        let context = self.decoder.config.max_position_embeddings;
        match tokens {
            0 => Err(TeacherError::EmptyPrompt { number }),
            _ if tokens >= context => Err(TeacherError::PromptTooLong {
                number,
                tokens,
                context,
            }),
            _ => Ok(ids),
        }
    }

    fn continue_ids(
        &self,
        prompts: &[Vec<u32>],
        request: &GenerationRequest,
        together: Together,
        uniform: &dyn Fn(usize, usize) -> f64,
        on_text: &mut OnText<'_>,
    ) -> Vec<Completion> {
        let context = self.decoder.config.max_position_embeddings;
        let config = GenerationConfig {
            sampling: request.sampling.clone(),
            max_new_tokens: request.max_new_tokens,
            eos_token_ids: self.eos_token_ids(),
            vocabulary: self.decoder.config.vocab_size,
            rows: together.rows,
            shared: together.shared,
        };
        let mut streams: Vec<TextStream> = prompts
            .iter()
            .map(|_| TextStream::new(&request.stop))
            .collect();
        let mut keep_going = |prompt: usize, ids: &[u32]| {
            on_text(prompt, self.new_text(&mut streams[prompt], ids));
            streams[prompt].stopped().is_none() && prompts[prompt].len() + ids.len() < context
        };
        let outputs = generate(&self.decoder, prompts, &config, uniform, &mut keep_going);
        (outputs.into_iter().zip(streams).enumerate())
            .map(|(prompt, (ids, stream))| {
                self.completed(ids, stream, &mut |text| on_text(prompt, text))
            })
            .collect()
    }

    /// What the last of `ids` adds to their text.
    pub(crate) fn new_text<'s>(&self, stream: &'s mut TextStream, ids: &[u32]) -> &'s str {
        match ids.last() {
            None => "",
            Some(id) if self.ends_a_text(*id) => "",
            Some(id) if self.tokenizer.is_special(*id) => match self.tokenizer.token(*id) {
                Some(token) if stream.is_stop(&token) => stream.push(token.as_bytes()),
                _ => "",
            },
            Some(id) => stream.push(&self.tokenizer.token_bytes(*id).unwrap_or_default()),
        }
    }

    /// `on_text` gets what was held back to the end.
    pub(crate) fn completed(
        &self,
        ids: Vec<u32>,
        mut stream: TextStream,
        on_text: &mut dyn FnMut(&str),
    ) -> Completion {
        let rest = stream.finish();
        if !rest.is_empty() {
            on_text(rest);
        }
        let ended = ids.last().is_some_and(|id| self.ends_a_text(*id));
        let finish_reason = match stream.stopped() {
            Some(_) => FinishReason::Stop,
            None if ended => FinishReason::EndOfSequence,
            None => FinishReason::Length,
        };
        Completion {
            text: stream.into_text(),
            ids,
            finish_reason,
        }
    }

    fn ends_a_text(&self, id: u32) -> bool {
        self.decoder.config.eos_token_ids.contains(&id) || self.tokenizer.eos_ids().contains(&id)
    }
}

/// Tokens that end a text: those of the model's configuration and those of its tokenizer.
pub fn eos_token_ids(decoder: &Decoder, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = decoder.config.eos_token_ids.clone();
    for id in tokenizer.eos_ids() {
        if !ids.contains(id) {
            ids.push(*id);
        }
    }
    ids
}

impl Teacher for LocalTeacher {
    fn signal(&self, batch: &TokenBatch, layers: &[usize]) -> Result<Signal, TeacherError> {
        let rows = self.decoder.config.vocab_size;
        if let Some(position) = batch.ids.iter().position(|&id| id as usize >= rows) {
            let id = batch.ids[position];
            return Err(TeacherError::TokenOutOfRange { id, position, rows });
        }
        let blocks = self.decoder.blocks.len();
        if let Some(&layer) = layers.iter().find(|&&layer| layer > blocks) {
            return Err(TeacherError::NoLayer {
                layer,
                layers: blocks,
            });
        }
        let (hidden, layers) = self.decoder.hidden_and_layers(batch, layers);
        Ok(Signal {
            hidden,
            head: self.decoder.head().clone(),
            layers,
        })
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary {
            tokenizer: &self.tokenizer,
            rows: self.decoder.config.vocab_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tokenizer::{tiny_decoder, word_tokenizer};

    fn teacher() -> LocalTeacher {
        let words = ["a ", "b ", "c ", "d ", "e ", "f ", "g ", "h "];
        LocalTeacher::new(tiny_decoder(16, 12), word_tokenizer(&words)).unwrap()
    }

    fn sampled(max_new_tokens: usize, seed: u64) -> GenerationRequest {
        let mut request = GenerationRequest {
            max_new_tokens,
            seed,
            ..Default::default()
        };
        request.sampling.temperature = 1.0;
        request
    }

    fn text(prompt: &str) -> Prompt {
        Prompt::Text(prompt.to_owned())
    }

    #[test]
    fn streams_join_to_the_text_and_draws_follow_the_seed_and_the_number_alone() {
        let teacher = teacher();
        let prompts: Vec<Prompt> = (0..18).map(|_| text("a b ")).collect();
        let mut streamed = vec![String::new(); prompts.len()];
        let mut on_text = |prompt: usize, text: &str| streamed[prompt].push_str(text);
        let all = teacher
            .generate(&prompts, &sampled(6, 3), &mut on_text)
            .unwrap();
        for (completion, streamed) in all.iter().zip(&streamed) {
            assert_eq!(completion.text, *streamed);
            assert_eq!(completion.ids.len(), 6);
            assert_eq!(completion.finish_reason, FinishReason::Length);
        }
        assert!(all.iter().any(|completion| completion.ids != all[0].ids));
        assert_ne!(all[17].ids, all[1].ids);
        let first = teacher
            .generate(&prompts[..1], &sampled(6, 3), &mut |_, _| ())
            .unwrap();
        assert_eq!(first[0], all[0]);
        let other = teacher
            .generate(&prompts[..1], &sampled(6, 4), &mut |_, _| ())
            .unwrap();
        assert_ne!(other[0], all[0]);

        // With seeds of their own: as each would be alone, in whichever group it is written.
        let ids: Vec<Vec<u32>> = (0..35)
            .map(|i| teacher.encode(&text(["a b ", "c ", "d e f "][i % 3])))
            .collect::<Result<_, _>>()
            .unwrap();
        let seeds: Vec<u64> = (0..35).map(|i| 7 + i % 20).collect();
        let request = sampled(6, 0);
        let all = teacher.generate_seeded(&ids, &seeds, &request).unwrap();
        assert_eq!(all.len(), 35);
        for i in [0, 15, 16, 33, 34] {
            let (ids, seeds) = (&ids[i..=i], &seeds[i..=i]);
            let alone = teacher.generate_seeded(ids, seeds, &request).unwrap();
            assert_eq!(alone[0], all[i]);
        }
    }

    #[test]
    fn the_context_ends_a_text_and_a_prompt_that_fills_it_is_an_error() {
        let teacher = teacher();
        let completion = teacher
            .generate(&[text("a b c ")], &sampled(100, 1), &mut |_, _| ())
            .unwrap()
            .remove(0);
        assert_eq!(completion.ids.len(), 12 - 3);
        let error = teacher
            .generate(&[text(&"a ".repeat(12))], &sampled(1, 1), &mut |_, _| ())
            .unwrap_err();
        assert!(error.to_string().contains("12 tokens"), "{error}");
        let error = teacher
            .generate(&[text("")], &sampled(1, 1), &mut |_, _| ())
            .unwrap_err();
        assert!(
            matches!(error, TeacherError::EmptyPrompt { number: Some(1) }),
            "{error}"
        );
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        let teacher = teacher();
        let mut request = sampled(1, 1);
        request.stop = vec![String::new()];
        let ask = |request: &GenerationRequest, prompt| {
            teacher
                .generate(&[prompt], request, &mut |_, _| ())
                .unwrap_err()
                .to_string()
        };
        assert!(ask(&request, text("a ")).contains("stop string is empty"));
        request.stop.clear();
        request.sampling.top_p = 2.0;
        assert!(ask(&request, text("a ")).contains("top_p is 2"));
        let talk = Prompt::Conversation(vec![datasets::sample::Message::new("user", "a ")]);
        assert!(ask(&sampled(1, 1), talk).contains("needs a chat template"));
    }

    #[test]
    fn the_signal_is_that_of_the_decoder_and_bad_asks_are_errors() {
        let teacher = teacher();
        let batch = TokenBatch::single(&[1, 2, 3]);
        let signal = teacher.signal(&batch, &[0, 2]).unwrap();
        assert_eq!(signal.hidden.dims()[0], 3);
        assert_eq!(signal.head.rows(), 16);
        assert!(signal.layers.get(2).is_some() && signal.layers.get(1).is_none());
        let error = teacher.signal(&batch, &[3]).unwrap_err();
        assert!(matches!(
            error,
            TeacherError::NoLayer {
                layer: 3,
                layers: 2
            }
        ));
        let error = teacher
            .signal(&TokenBatch::single(&[1, 16]), &[])
            .unwrap_err();
        assert!(matches!(
            error,
            TeacherError::TokenOutOfRange {
                id: 16,
                position: 1,
                ..
            }
        ));
        assert_eq!(teacher.vocabulary().rows, 16);
    }
}

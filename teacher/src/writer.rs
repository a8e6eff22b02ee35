//! A model that writes one text at a time and keeps what it has read; perhaps a smaller one drafts for it.

use datasets::random::Random;
use model::generate::engine::GenerationConfig;
use model::generate::sequence::Sequence;
use model::generate::speculative::{Acceptance, Drafter, Draw, continue_sequence};

use crate::error::TeacherError;
use crate::generation::{Completion, GenerationRequest};
use crate::local::LocalTeacher;
use crate::text_stream::TextStream;
use crate::vocabulary::compare;

/// Keys and values of the last prompt and its answer serve the next prompt as far as it begins with the same tokens.
pub struct Writer<'a> {
    model: &'a LocalTeacher,
    sequence: Sequence<'a>,
    drafter: Option<Drafter<'a>>,
}

/// A text and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub completion: Completion,
    /// Tokens of the prompt that were not computed again.
    pub reused: usize,
    pub acceptance: Acceptance,
}

/// Called for each new token with the text that it adds, which may be empty; false ends the text.
pub type OnToken<'a> = dyn FnMut(&str) -> bool + 'a;

impl<'a> Writer<'a> {
    /// `draft` is a model and how many tokens it drafts in a round.
    ///
    /// # Errors
    /// [`TeacherError::DraftVocabulary`]
    pub fn new(
        model: &'a LocalTeacher,
        draft: Option<(&'a LocalTeacher, usize)>,
    ) -> Result<Self, TeacherError> {
        let drafter = match draft {
            Some((draft, tokens)) => {
                let shared = shared_tokens(draft, model)?;
                let sequence = Sequence::new(draft.decoder());
                Some(Drafter::new(sequence, tokens, shared))
            }
            None => None,
        };
        Ok(Self {
            model,
            sequence: Sequence::new(model.decoder()),
            drafter,
        })
    }

    /// Continues the prompt, with the draws that [`LocalTeacher::generate`] gives to the prompt of this number, from 0:
    /// without a draft the same tokens, with one at temperature 0 as well, else tokens of the same distribution. The
    /// prompts are those of [`LocalTeacher::prompt_ids`].
    ///
    /// # Errors
    /// A request that makes no sense.
    pub fn write(
        &mut self,
        number: usize,
        prompt: &[u32],
        request: &GenerationRequest,
        on_token: &mut OnToken<'_>,
    ) -> Result<Written, TeacherError> {
        request.validate()?;
        let context = self.model.decoder().config.max_position_embeddings;
        let room = context.saturating_sub(prompt.len());
        let config = GenerationConfig {
            sampling: request.sampling.clone(),
            max_new_tokens: request.max_new_tokens.min(room),
            eos_token_ids: self.model.eos_token_ids(),
            vocabulary: self.model.decoder().config.vocab_size,
            rows: 1,
            shared: 0,
        };
        let stage = format!("generate {number}");
        let draws = |token: usize, draw: Draw| {
            let purpose = match draw {
                Draw::Token => "token",
                Draw::Draft => "draft",
                Draw::Acceptance => "acceptance",
            };
            Random::new(request.seed, &stage, token as u64, purpose).f64()
        };
        let mut stream = TextStream::new(&request.stop);
        let continued = continue_sequence(
            &mut self.sequence,
            self.drafter.as_mut(),
            prompt,
            &config,
            &draws,
            &mut |ids| {
                let goes_on = on_token(self.model.new_text(&mut stream, ids));
                goes_on && stream.stopped().is_none()
            },
        );
        let mut rest = |text: &str| {
            on_token(text);
        };
        Ok(Written {
            completion: self.model.completed(continued.ids, stream, &mut rest),
            reused: continued.reused,
            acceptance: continued.acceptance,
        })
    }

    /// Begins anew: the next text depends on nothing that was written before, to the bit.
    pub fn forget(&mut self) {
        self.sequence.forget();
        self.drafter.iter_mut().for_each(Drafter::forget);
    }
}

/// Leading columns of both heads that are the same tokens. The draft needs all of the model's tokens: it reads what the
/// model says.
fn shared_tokens(draft: &LocalTeacher, model: &LocalTeacher) -> Result<usize, TeacherError> {
    let rows = |of: &LocalTeacher| of.decoder().config.vocab_size;
    let (ours, theirs) = (draft.tokenizer(), model.tokenizer());
    let tokens = (0..rows(model) as u32).filter(|id| theirs.token_bytes(*id).is_some());
    compare(ours, theirs, tokens, rows(draft), rows(model)).map_err(|error| match error {
        TeacherError::VocabularyMismatch {
            id,
            student,
            teacher,
        } => TeacherError::DraftVocabulary {
            id,
            draft: student,
            model: teacher,
        },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::{FinishReason, Prompt};
    use crate::test_tokenizer::{tiny_decoder, word_tokenizer};

    const WORDS: [&str; 8] = ["a ", "b ", "c ", "d ", "e ", "f ", "g ", "h "];

    fn teacher(rows: usize) -> LocalTeacher {
        LocalTeacher::new(tiny_decoder(rows, 24), word_tokenizer(&WORDS)).unwrap()
    }

    fn request(temperature: f32) -> GenerationRequest {
        let mut request = GenerationRequest {
            max_new_tokens: 50,
            seed: 3,
            ..Default::default()
        };
        request.sampling.temperature = temperature;
        request
    }

    #[test]
    fn writes_what_generate_does_and_reads_nothing_twice() {
        let model = teacher(16);
        let prompt = Prompt::Text("a b c ".into());
        let mut writer = Writer::new(&model, None).unwrap();
        let ids = model.encode(&prompt).unwrap();
        let mut streamed = String::new();
        let written = writer
            .write(0, &ids, &request(1.0), &mut |text| {
                streamed += text;
                true
            })
            .unwrap();
        let plain = model
            .generate(&[prompt], &request(1.0), &mut |_, _| ())
            .unwrap();
        assert_eq!(written.completion, plain[0]);
        assert_eq!(written.completion.text, streamed);
        assert_eq!(written.completion.ids.len(), 24 - 3, "the context ends it");
        assert_eq!(written.reused, 0);
        // The last token that was drawn has not been read.
        let longer = [&ids, &written.completion.ids[..9]].concat();
        let again = writer.write(0, &longer, &request(1.0), &mut |_| true);
        assert_eq!(again.unwrap().reused, 11);
        let other = writer.write(0, &[ids[0], 7], &request(1.0), &mut |_| false);
        let other = other.unwrap();
        assert_eq!((other.reused, other.completion.ids.len()), (1, 1));
        writer.forget();
        let afresh = writer.write(0, &ids, &request(1.0), &mut |_| true).unwrap();
        assert_eq!(afresh, written);
    }

    #[test]
    fn with_a_draft_stop_strings_and_the_context_end_a_text_too() {
        let (model, draft) = (teacher(16), teacher(12));
        let prompt = Prompt::Text("a b c ".into());
        let ids = model.encode(&prompt).unwrap();
        let mut request = request(0.0);
        for stop in [vec![], vec!["zz".to_owned()]] {
            request.stop = stop;
            let plain = model
                .generate(std::slice::from_ref(&prompt), &request, &mut |_, _| ())
                .unwrap();
            let mut writer = Writer::new(&model, Some((&draft, 3))).unwrap();
            let written = writer.write(0, &ids, &request, &mut |_| true).unwrap();
            assert_eq!(written.completion, plain[0]);
            assert!(written.acceptance.rounds > 0);
        }
        // Whatever comes first ends it.
        request.sampling.temperature = 1.0;
        request.stop = WORDS.map(str::to_owned).to_vec();
        let mut writer = Writer::new(&model, Some((&draft, 3))).unwrap();
        let written = writer.write(0, &ids, &request, &mut |_| true).unwrap();
        assert_eq!(written.completion.finish_reason, FinishReason::Stop);
        assert_eq!(written.completion.text, "");
    }

    #[test]
    fn a_draft_of_another_vocabulary_is_refused() {
        let model = teacher(16);
        let mut words = WORDS;
        words.swap(2, 5);
        let draft = LocalTeacher::new(tiny_decoder(16, 24), word_tokenizer(&words)).unwrap();
        let error = Writer::new(&model, Some((&draft, 3))).err().unwrap();
        let error = error.to_string();
        assert!(
            error.contains("token 2 is \"f \" for the draft and \"c \" for the model"),
            "{error}"
        );
    }
}

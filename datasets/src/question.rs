//! The tokens that an answer follows.

use crate::error::DataError;
use crate::mask::SampleEncoder;
use crate::sample::{Message, Sample};

impl SampleEncoder<'_> {
    /// A sample as a question: what stands before its last answer. With a chat template a text or a prompt is the user's
    /// turn, and the assistant's is next.
    ///
    /// # Errors
    /// A conversation needs a template that takes its roles.
    pub fn question(&self, sample: &Sample) -> Result<Vec<u32>, DataError> {
        let messages = match (sample, self.template()) {
            (Sample::Text(text) | Sample::Completion { prompt: text, .. }, None) => {
                return self.opening(text);
            }
            (Sample::Text(text) | Sample::Completion { prompt: text, .. }, Some(_)) => {
                vec![Message::new("user", text)]
            }
            (Sample::Conversation(messages), _) => {
                let last = messages.iter().rposition(|m| m.role == "assistant");
                messages[..last.unwrap_or(messages.len())].to_vec()
            }
        };
        let template = self.template().ok_or(DataError::NoTemplate)?;
        let text = template.render(&messages, true)?;
        self.tokenizer().encode_after(None, &text)
    }
}

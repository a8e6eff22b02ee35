//! Streamed answers: server-sent events put together.

use serde_json::Value;

use super::answer::{Answer, Choice, Usage, error_message, read_logprobs};

/// An answer that comes in pieces.
#[derive(Debug, Default)]
pub struct StreamedAnswer {
    /// The start of a line whose end has not come yet.
    open: Vec<u8>,
    choices: Vec<Option<Choice>>,
    usage: Option<Usage>,
    done: bool,
}

/// More answers to one request than any server gives.
const MOST_CHOICES: usize = 4096;

impl StreamedAnswer {
    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// What is wrong with them, in a few words.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.open.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(length) = self.open[from..].iter().position(|&byte| byte == b'\n') {
            let line = self.open[from..from + length].to_vec();
            from += length + 1;
            self.line(&line)?;
        }
        self.open.drain(..from);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let line = line.trim_ascii();
        // Other fields of an event, comments and blank lines say nothing to us.
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let event: Value = serde_json::from_slice(data)
            .map_err(|error| format!("a piece of the stream that is no JSON ({error})"))?;
        if let Some(error) = error_message(&event) {
            return Err(format!("an error in the stream: {error}"));
        }
        self.usage = Usage::read(&event).or(self.usage);
        for piece in event["choices"].as_array().into_iter().flatten() {
            self.piece(piece)?;
        }
        Ok(())
    }

    fn piece(&mut self, piece: &Value) -> Result<(), String> {
        let index = piece["index"].as_u64().unwrap_or(0) as usize;
        if index >= MOST_CHOICES {
            return Err(format!("a piece of answer number {index}"));
        }
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, || None);
        }
        let choice = self.choices[index].get_or_insert_default();
        let text = match piece.get("delta") {
            Some(delta) => &delta["content"],
            None => &piece["text"],
        };
        choice.text += text.as_str().unwrap_or_default();
        choice.logprobs.extend(read_logprobs(&piece["logprobs"]));
        if let Some(reason) = piece["finish_reason"].as_str() {
            choice.finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }

    /// The whole answer, once the stream has ended.
    ///
    /// # Errors
    /// A stream that was cut.
    pub fn finish(mut self) -> Result<Answer, String> {
        if !self.open.is_empty() {
            let rest = std::mem::take(&mut self.open);
            self.line(&rest)?;
        }
        let (done, usage) = (self.done, self.usage.unwrap_or_default());
        let choices: Option<Vec<Choice>> = self.choices.into_iter().collect();
        match choices {
            Some(choices)
                if !choices.is_empty()
                    && (done || choices.iter().all(|choice| choice.finish_reason.is_some())) =>
            {
                Ok(Answer { choices, usage })
            }
            _ => Err("the stream was cut".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": comment\n\
        data: {\"choices\":[{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":\"B\"}}]}\r\n\r\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Aé\"},\"logprobs\":{\"content\":[{\"token\":\"Aé\",\"logprob\":-1.0,\"top_logprobs\":[]}]}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"},{\"index\":1,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn pieces_join_however_they_are_cut() {
        for size in [1, 7, 4096] {
            let mut answer = StreamedAnswer::default();
            for bytes in STREAM.as_bytes().chunks(size) {
                answer.push(bytes).unwrap();
            }
            let answer = answer.finish().unwrap();
            let texts: Vec<&str> = answer.choices.iter().map(|c| c.text.as_str()).collect();
            assert_eq!(texts, ["Aé", "B"]);
            assert_eq!(
                answer.usage,
                Usage {
                    input: 3,
                    output: 2
                }
            );
            assert_eq!(answer.choices[0].logprobs.len(), 1);
            assert_eq!(answer.choices[1].finish_reason.as_deref(), Some("length"));
        }
    }

    #[test]
    fn a_cut_stream_is_no_answer() {
        let cut = &STREAM[..STREAM.find("finish_reason").unwrap()];
        let mut answer = StreamedAnswer::default();
        let end = cut.rfind('\n').unwrap();
        answer.push(&cut.as_bytes()[..end]).unwrap();
        assert_eq!(answer.finish().unwrap_err(), "the stream was cut");
        assert!(StreamedAnswer::default().finish().is_err());
        let error = StreamedAnswer::default().push(b"data: {\"error\":{\"message\":\"full\"}}\n");
        assert!(error.unwrap_err().contains("full"));
    }
}
